"""The state of an optimizer that DeepSpeed cut up, whole, as one process would have it.

DeepSpeed's own checkpoints are pickles, which Trimtab does not read. Its accessors
(deepspeed.utils.safe_get_full_optimizer_state and the like) gather one tensor after the other, so a
checkpoint keeps plain tensors by parameter, and any number of ranks can take it up again. Imports
torch and deepspeed.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trimtab.errors import UserError

# Where weights are trained in another precision, the float32 copies that the optimizer steps.
WEIGHT = "weight"


def gathered(optimizer: Any, owners: Sequence[Tensor]) -> dict[str, Any]:
    """The state of ZeRO's `optimizer`, of each of the trained `owners`, in the first rank.

    Every rank takes part. Empty where a state is not one number a weight, as with Adafactor: those
    DeepSpeed does not tell apart by weight.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    inner = optimizer.optimizer
    # Plain SGD has no state at all.
    flat, held = next(iter(inner.state.items()), (torch.empty(0), {}))
    moments = [name for name, value in held.items() if torch.is_tensor(value) and value.dim()]
    if any(held[name].shape != flat.shape for name in moments):
        return {}
    _link(optimizer, owners)
    rest = {name: value for name, value in held.items() if name not in moments}
    first, state = dist.get_rank() == 0, {}
    for place, owner in enumerate(owners):
        each = {name: safe_get_full_optimizer_state(owner, name) for name in moments}
        if owner.dtype != torch.float32:
            each[WEIGHT] = safe_get_full_fp32_param(owner)
        if first:
            state[place] = rest | {name: value.cpu().clone() for name, value in each.items()}
    groups = [
        {name: value for name, value in group.items() if name != "params"}
        for group in inner.param_groups
    ]
    return {"state": state, "param_groups": groups}


def restore(optimizer: Any, owners: Sequence[Tensor], saved: dict[str, Any]) -> None:
    """Give ZeRO's `optimizer` the state that `gathered` made; each rank cuts out its own part.

    Raises UserError where nothing was gathered.
    """
    if not saved:
        raise UserError(
            "DeepSpeed does not give out the state of this optimizer, so the run does not go on",
            hint="delete the run's folder, and set train.extra.optim to adamw_torch",
        )
    inner = optimizer.optimizer
    for group, kept in zip(inner.param_groups, saved["param_groups"], strict=True):
        group |= kept
    for flat in _flat(optimizer):
        inner.state[flat] = {
            name: _empty(value, flat) for name, value in saved["state"][0].items() if name != WEIGHT
        }
    _link(optimizer, owners)
    for place, owner in enumerate(owners):
        for name, value in saved["state"][place].items():
            if torch.is_tensor(value) and value.dim():
                _set(owner, value, name)


def _link(optimizer: Any, owners: Sequence[Tensor]) -> None:
    """Tell each weight under ZeRO-2 where its states lie. DeepSpeed does so once, behind the first
    step of the first group of weights, when those of the others have no states yet.
    """
    if not hasattr(owners[0], "ds_id"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def _empty(value: Any, flat: Tensor) -> Any:
    """Room for a part's moment; what is no number a weight, as it is: a count of steps, of its own
    for each part, since the optimizer counts in place.
    """
    if not torch.is_tensor(value):
        return value
    return torch.zeros_like(flat) if value.dim() else value.clone()


def _flat(optimizer: Any) -> list[Tensor]:
    """This rank's parts of all weights, as the inner optimizer has them: ZeRO-2's, or ZeRO-3's."""
    for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
        if hasattr(optimizer, name):
            parts: list[Tensor] = list(getattr(optimizer, name))
            return parts
    raise TypeError(f"{type(optimizer).__name__} is not an optimizer of ZeRO-2 or ZeRO-3")


def _set(owner: Any, value: Tensor, name: str) -> None:
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    value = value.to(owner.device)
    if not hasattr(owner, "ds_id"):
        if name == WEIGHT:
            safe_set_full_fp32_param(owner, value)
        else:
            safe_set_full_optimizer_state(owner, value, name)
        return
    # ZeRO-3 pads what the ranks do not divide, and sets whole values only where they do.
    each: int = owner.ds_tensor.numel()
    padded = value.new_zeros(each * dist.get_world_size())
    padded[: value.numel()] = value.flatten()
    own = padded.narrow(0, each * dist.get_rank(), each)
    if name == WEIGHT:
        safe_set_local_fp32_param(owner, own)
    else:
        safe_set_local_optimizer_state(owner, own, name)
