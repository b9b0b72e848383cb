"""Weights in the blocked order that oneDNN multiplies them in: arranged once, not at every step.

The numbers are the same. torch has the operators for its own compiler, and keeps them internal.
"""

import torch


def pack(weight: torch.Tensor) -> torch.Tensor | None:
    """A packed copy of `weight` (outputs, inputs); None where this machine or build cannot."""
    if weight.device.type != "cpu":
        return None
    try:
        packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        # A number format that the processor lacks shows at the first use.
        multiply(weight.new_zeros(1, weight.shape[1]), packed)
    except (AttributeError, RuntimeError):
        return None
    return packed


def multiply(x: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
    """x (tokens, inputs) times the transpose of the matrix that was packed."""
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    return product
