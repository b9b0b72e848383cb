"""The weights of a projection, in the arrangement that they are multiplied in: there is one copy.

Knows nothing of networks and files.
"""

import functools
import logging
from dataclasses import dataclass

import torch
from torch.nn import functional

from trimtab.engine.faults import first_line

log = logging.getLogger(__name__)

PANEL = 16
"""Outputs in a panel, as kernels/linear.h has it."""

# A word holds outputs j and j + 8.
_PAIRED = [half * 8 + j for j in range(8) for half in range(2)]


@dataclass(frozen=True, slots=True)
class Bytes:
    """Weights in 8 bits: `rows` (outputs, inputs), `packed` the same for oneDNN, times `scales`
    (outputs,); symmetric, so `zeros` are the points of zero.
    """

    rows: torch.Tensor
    packed: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor


@dataclass(slots=True)
class Linear:
    """`size` is (outputs, inputs). Of the arrangements one is there: `plain` is (outputs, inputs)
    in the dtype that is computed in; `panels` (panels, inputs, PANEL) in float32, or in bfloat16
    where the file had no more; `packed` is oneDNN's own; `bytes` is not exact.
    """

    size: tuple[int, int]
    bias: torch.Tensor | None = None
    plain: torch.Tensor | None = None
    panels: torch.Tensor | None = None
    packed: torch.Tensor | None = None
    bytes: Bytes | None = None

    def rows(self) -> torch.Tensor:
        """The weights that are computed with, (outputs, inputs), in float32."""
        if self.plain is not None:
            return self.plain.float()
        if self.panels is not None:
            return unpanelled(self.panels, self.size[0]).float()
        if self.bytes is not None:
            return self.bytes.rows.float() * self.bytes.scales.unsqueeze(1)
        assert self.packed is not None
        return self.packed.to_dense().float()


def plain(weight: torch.Tensor) -> Linear:
    return Linear(_size(weight), plain=weight)


def panelled(weight: torch.Tensor) -> Linear:
    """`weight` is float32 or bfloat16."""
    outputs, inputs = weight.shape
    filled = functional.pad(weight, (0, 0, 0, -outputs % PANEL)).view(-1, PANEL, inputs)
    if weight.dtype == torch.bfloat16:
        filled = filled[:, _PAIRED]
    return Linear(_size(weight), panels=filled.transpose(1, 2).contiguous())


def unpanelled(panels: torch.Tensor, outputs: int) -> torch.Tensor:
    rows = panels.transpose(1, 2)
    if panels.dtype == torch.bfloat16:
        rows = rows[:, torch.tensor(_PAIRED).argsort()]
    return rows.reshape(-1, panels.shape[1])[:outputs]


def packed(weight: torch.Tensor) -> Linear:
    """In oneDNN's blocked order, through operators that torch keeps for its own compiler; plain
    where this machine or build has them not.
    """
    try:
        blocked: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        # A number format that the processor lacks shows at the first use.
        multiply(weight.new_zeros(1, weight.shape[1]), blocked)
    except (AttributeError, RuntimeError) as error:
        _tell(first_line(error))
        return plain(weight.clone())
    return Linear(_size(weight), packed=blocked)


def quantised(weight: torch.Tensor) -> Linear:
    """In 8 bits, each output's largest weight at 127."""
    wide = weight.float()
    scales = wide.abs().amax(dim=1).clamp(min=1e-30) / 127
    rows = (wide / scales.unsqueeze(1)).round().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(rows, None)
    zeros = torch.zeros(len(rows), dtype=torch.int32)
    return Linear(_size(weight), bytes=Bytes(rows, packed, scales, zeros))


def multiply(x: torch.Tensor, blocked: torch.Tensor) -> torch.Tensor:
    """x (tokens, inputs) times the transpose of the matrix that oneDNN packed."""
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, blocked, None, "none", [], "")
    return product


@functools.cache
def _tell(why: str) -> None:
    """Once, and not for every matrix."""
    log.warning("no oneDNN order of weights here, the engine multiplies plain ones: %s", why)


def _size(weight: torch.Tensor) -> tuple[int, int]:
    outputs, inputs = weight.shape
    return outputs, inputs
