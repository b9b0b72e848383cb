"""Numbers of a list on a device, without waiting for what the device has still to do.

Imports torch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def upload(
    numbers: Sequence[int] | Tensor, device: torch.device, dtype: torch.dtype = torch.long
) -> Tensor:
    """From page-locked memory where the device is a card: of other memory torch would wait for the
    copy, and for all that the card was told before it.
    """
    host = torch.as_tensor(numbers, dtype=dtype)
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)
