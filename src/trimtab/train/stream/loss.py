"""Log-probabilities of labels, the common ground of every objective, computed for no other token.

Where the model can be walked (`walk`), rows become a stream without padding, what they share is
computed once, and only labels get logits; elsewhere transformers computes the padded batch. Both
give the same loss and gradients, which tests hold them to. Knows nothing of trainers.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from trimtab.train.room import PART
from trimtab.train.stream.cuda.labels import LearntLabels
from trimtab.train.stream.head import LabelLogprobs
from trimtab.train.stream.stream import IGNORED, Stream, common, lay_out
from trimtab.train.stream.upload import upload
from trimtab.train.stream.walk import Model, bare, drops, hidden_states, walkable


def label_logprobs(model: Model, tokens: Tensor, labels: Tensor) -> Tensor:
    """Natural log-probabilities of the labels, row by row: one number for each label not ignored.

    `tokens` and `labels` are [batch, length], padded on the right. No attention mask is needed:
    padding stands after everything that counts, where causal attention cannot see it.
    """
    if walkable(model):
        return stream_logprobs(model, stream_of(model, tokens, labels))
    targets = labels[:, 1:]
    # What is learnt before the prompt comes back before the columns that were asked for.
    logits = model(input_ids=tokens).logits[:, -tokens.shape[1] : -1][targets != IGNORED]
    wanted = targets[targets != IGNORED]
    return -functional.cross_entropy(logits.float(), wanted, reduction="none")


def stream_of(model: Model, tokens: Tensor, labels: Tensor) -> Stream:
    """The stream of a padded batch; rows that begin alike share it unless inputs are dropped."""
    return lay_out(tokens.tolist(), labels.tolist(), share=not drops(model))


def stream_logprobs(model: Model, stream: Stream) -> Tensor:
    """Natural log-probabilities of a stream's labels, in their order; needs a walkable model."""
    return _labelled(model, hidden_states(model, stream), stream, measured=False)[0]


def stream_measures(model: Model, stream: Stream) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities as above; entropy in nats, whether the label is likeliest, mean logit."""
    hidden = hidden_states(model, stream)
    logprobs, entropy, likeliest = _labelled(model, hidden, stream, measured=True)
    with torch.no_grad():
        mean = hidden @ _head(model).weight.mean(dim=0).to(hidden.dtype)
    return logprobs, entropy, likeliest, mean


def _labelled(
    model: Model, hidden: Tensor, stream: Stream, *, measured: bool
) -> tuple[Tensor, Any, Any]:
    weight = _head(model).weight
    targets = upload(stream.targets, hidden.device)
    if not weight.requires_grad:
        found: tuple[Tensor, Any, Any] = LabelLogprobs.apply(hidden, weight, targets, measured)  # type: ignore[no-untyped-call]
        return found
    if hidden.is_cuda:
        found = LearntLabels.apply(hidden, weight, targets, measured)  # type: ignore[no-untyped-call]
        return found
    # A head that learns needs its logits for its own gradient.
    logits = _head(model)(hidden)
    logprobs = -functional.cross_entropy(logits, targets, reduction="none")
    if not measured:
        return logprobs, None, None
    with torch.no_grad():
        entropy = torch.distributions.Categorical(logits=logits, validate_args=False).entropy()  # type: ignore[no-untyped-call]
    return logprobs, entropy, logits.argmax(dim=-1) == targets


def _head(model: Model) -> Any:
    causal: Any = bare(model)
    return causal.get_output_embeddings()


def parts(tokens: Sequence[list[int]], limit: int = PART) -> Iterator[list[int]]:
    """Rows, those that begin alike together, in lists of at most `limit` tokens that are computed.
    A row longer than that is a list of its own.
    """
    order = sorted(range(len(tokens)), key=lambda row: tokens[row])
    part: list[int] = []
    size = 0
    for row in order:
        new = len(tokens[row])
        if part:
            new -= common(tokens[part[-1]], tokens[row])
        if part and size + new > limit:
            yield part
            part, size, new = [], 0, len(tokens[row])
        part.append(row)
        size += new
    if part:
        yield part
