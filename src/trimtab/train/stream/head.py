"""Log-probabilities of labels from hidden states, a tile of labels at a time.

The logits of a whole batch are the largest tensor of a training step, and most of what is made of
them is thrown away. Here a tile's logits give the labels' log-probabilities and, while they are at
hand, the gradient by the hidden states: a later factor on a label scales its row alone. So no
logits are kept and none are computed twice. On a card `cuda.labels` does the same. Imports torch.
"""

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from trimtab.train.stream.cuda.labels import measured_labels

# Labels whose logits exist at a time.
TILE = 128


class LabelLogprobs(torch.autograd.Function):
    """Natural log-probabilities [labels] of `targets` under softmax(hidden weight').

    `hidden` is [labels, width] and `weight`, [vocabulary, width], frozen. With `measured` also the
    entropy of each prediction in nats, and whether the label was its likeliest; else None for both.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, measured: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if hidden.is_cuda:
            found, slopes = measured_labels(
                hidden, weight, targets, measured, sloped=ctx.needs_input_grad[0]
            )
            ctx.save_for_backward(slopes)
            if found[1] is not None and found[2] is not None:
                ctx.mark_non_differentiable(found[1], found[2])
            return found
        logprobs = hidden.new_empty(len(targets))
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        entropy = torch.empty_like(logprobs) if measured else None
        likeliest = torch.empty_like(targets, dtype=torch.bool) if measured else None
        logits = hidden.new_empty(min(TILE, len(targets)), len(weight))
        probs = torch.empty_like(logits)
        for start in range(0, len(targets), TILE):
            part = slice(start, min(start + TILE, len(targets)))
            count = part.stop - start
            rows, wanted = torch.arange(count), targets[part]
            torch.mm(hidden[part], weight.t(), out=logits[:count])
            top, place = logits[:count].max(dim=-1)
            torch.softmax(logits[:count], dim=-1, out=probs[:count])
            # The largest probability tells the sum of exponentials without a pass of its own.
            total = top - probs[rows, place].log()
            logprobs[part] = logits[rows, wanted] - total
            if entropy is not None and likeliest is not None:
                entropy[part] = total - torch.linalg.vecdot(probs[:count], logits[:count])
                likeliest[part] = place == wanted
            if slopes is not None:
                torch.mm(probs[:count], weight, out=slopes[part])
                torch.sub(functional.embedding(wanted, weight), slopes[part], out=slopes[part])
        ctx.save_for_backward(slopes)
        if entropy is not None and likeliest is not None:
            ctx.mark_non_differentiable(entropy, likeliest)
        return logprobs, entropy, likeliest

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (slopes,) = ctx.saved_tensors
        return slopes * grads[0][:, None].to(slopes.dtype), None, None, None
