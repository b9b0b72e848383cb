"""One adapter at one place: what it adds beside a projection. Knows nothing of files."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Up:
    """What one projection makes of its rows of the common `down`, which begin at `row`: `weight` is
    (rank, outputs), s included; its outputs begin at `column` of the fused matrix.
    """

    weight: torch.Tensor
    row: int = 0
    column: int = 0

    @property
    def rows(self) -> slice:
        return slice(self.row, self.row + self.weight.shape[0])

    @property
    def columns(self) -> slice:
        return slice(self.column, self.column + self.weight.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """`down` is (rank, inputs), one projection's rows below another's. `lengthen` is (outputs,) and
    multiplies base and adapter together, 1 where no adapter is; None without DoRA.
    """

    down: torch.Tensor
    ups: tuple[Up, ...]
    lengthen: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """A pair as the kernels read it: a `structure` that points into `tensors`."""

    structure: bytes
    tensors: tuple[torch.Tensor, ...]


AnyPair = Pair | Told
"""As the arithmetic that computes with it wants it."""
