"""Log-probabilities of labels on a card, a tile of labels at a time.

As `head` does it, in tiles that fill a card: logits in float32 out of a product in bfloat16, then
one kernel for everything that is made of them. Imports torch.
"""

from typing import Any

import torch
from torch import Tensor

from trimtab.train.stream.cuda.fusion import fuses

# Bytes of the logits of a tile and of their gradient.
TILE_BYTES = 1 << 29
# Labels of a tile are a multiple of what a product computes in one block.
ROWS = 128

Measures = tuple[Tensor, Tensor | None, Tensor | None]


def tile_of(vocabulary: int, width: int) -> int:
    """Labels whose logits exist at a time; `width` is that of a hidden state's number, in bytes."""
    return max(ROWS, TILE_BYTES // (vocabulary * (4 + width)) // ROWS * ROWS)


def measured_labels(
    hidden: Tensor, weight: Tensor, targets: Tensor, measured: bool, sloped: bool
) -> tuple[Measures, Tensor | None]:
    """Log-probabilities in nats, and with `measured` entropies and whether each label is likeliest;
    with `sloped` the gradient of each log-probability by its hidden state, [labels, width].
    """
    logprobs = hidden.new_empty(len(targets), dtype=torch.float32)
    entropy = torch.empty_like(logprobs) if measured else None
    likeliest = torch.empty_like(targets, dtype=torch.int8) if measured else None
    slopes = torch.empty_like(hidden) if sloped else None
    size = tile_of(len(weight), hidden.element_size())
    for start in range(0, len(targets), size):
        part = slice(start, min(start + size, len(targets)))
        logits = products(hidden[part], weight)
        inner = _labelled(
            logits,
            targets[part],
            logprobs[part],
            None if entropy is None else entropy[part],
            None if likeliest is None else likeliest[part],
            hidden.dtype if sloped else None,
        )
        if slopes is not None and inner is not None:
            torch.mm(inner, weight, out=slopes[part])
    return (logprobs, entropy, None if likeliest is None else likeliest.bool()), slopes


def products(hidden: Tensor, weight: Tensor) -> Tensor:
    """Logits in float32: [labels, vocabulary]."""
    if hidden.dtype == torch.float32:
        return hidden @ weight.t()
    found: Tensor = torch.mm(hidden, weight.t(), out_dtype=torch.float32)
    return found


def _labelled(
    logits: Tensor,
    targets: Tensor,
    logprobs: Tensor,
    entropy: Tensor | None,
    likeliest: Tensor | None,
    sloped: torch.dtype | None,
) -> Tensor | None:
    """Fill what there are tensors for; the gradient by the logits in the width that is asked."""
    if fuses(logits):
        from trimtab.train.stream.cuda.triton_kernels import labelled

        slopes = None if sloped is None else torch.empty_like(logits, dtype=sloped)
        labelled(logits, targets, logprobs, entropy, likeliest, slopes)
        return slopes
    logs = torch.log_softmax(logits, dim=-1)
    torch.gather(logs, 1, targets[:, None], out=logprobs[:, None])
    probs = logs.exp()
    if entropy is not None and likeliest is not None:
        entropy.copy_(-torch.linalg.vecdot(probs, logs))
        likeliest.copy_(logits.argmax(dim=-1) == targets)
    if sloped is None:
        return None
    probs.neg_().scatter_add_(
        1, targets[:, None], torch.ones_like(targets[:, None], dtype=probs.dtype)
    )
    return probs.to(sloped)


class LearntLabels(torch.autograd.Function):
    """Log-probabilities under a head that learns: its logits are computed again in the backward
    pass, for its gradient needs what each label counts.

    `hidden` is [labels, width] in the width of the products, `weight` [vocabulary, width].
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, measured: bool
    ) -> Measures:
        ctx.save_for_backward(hidden, weight, targets)
        narrow = weight.to(hidden.dtype)
        found, _ = measured_labels(hidden, narrow, targets, measured, sloped=False)
        if found[1] is not None and found[2] is not None:
            ctx.mark_non_differentiable(found[1], found[2])
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        hidden, weight, targets = ctx.saved_tensors
        narrow = weight.to(hidden.dtype)
        dhidden = torch.empty_like(hidden)
        dweight = torch.zeros_like(weight)
        size = tile_of(len(weight), hidden.element_size())
        unused = hidden.new_empty(len(targets), dtype=torch.float32)
        for start in range(0, len(targets), size):
            part = slice(start, min(start + size, len(targets)))
            logits = products(hidden[part], narrow)
            inner = _labelled(logits, targets[part], unused[part], None, None, hidden.dtype)
            assert inner is not None
            inner.mul_(grads[0][part, None].to(inner.dtype))
            torch.mm(inner, narrow, out=dhidden[part])
            dweight += inner.t() @ hidden[part]
        return dhidden, dweight, None, None
