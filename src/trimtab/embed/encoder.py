"""Token ids to vectors as sentence-transformers defines them: the mean of the last hidden states
over the tokens of a text, scaled to length one (Reimers and Gurevych 2019,
https://arxiv.org/abs/1908.10084).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from trimtab.embed.bert import Bert
from trimtab.inference import Vector

# Tokens in one batch, padding included: enough to fill the cores, little enough to stay in memory.
BATCH_TOKENS = 4096


class Encoder:
    """The encoder of a folder. Raises BaseError where the folder holds none."""

    def __init__(self, folder: Path) -> None:
        self._model = Bert(folder)

    @property
    def vocabulary(self) -> int:
        return self._model.vocabulary

    def encode(self, inputs: Sequence[Sequence[int]]) -> list[Vector]:
        """A vector an input, in the order of the inputs. None of them may be empty.

        Texts of one length share a batch, so that little is computed for padding; a vector depends
        on its own text alone, up to rounding.
        """
        found: dict[int, Vector] = {}
        for places in _batches([len(tokens) for tokens in inputs]):
            vectors = self._vectors([inputs[place] for place in places])
            found |= dict(zip(places, map(tuple, vectors.tolist()), strict=True))
        return [found[place] for place in range(len(inputs))]

    def _vectors(self, inputs: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, inputs))
        ids = torch.zeros(len(inputs), longest, dtype=torch.long)
        mask = torch.zeros(len(inputs), longest, dtype=torch.bool)
        for row, tokens in enumerate(inputs):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = True
        states = self._model.states(ids, mask)
        weight = mask[:, :, None].to(states.dtype)
        mean = (states * weight).sum(1) / weight.sum(1)
        return F.normalize(mean, dim=1)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of inputs, the shortest first, so many together as BATCH_TOKENS lets be."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[place] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
