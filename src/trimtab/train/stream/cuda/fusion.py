"""Whether the kernels of `triton_kernels` can be built here, found out once by building one.

Imports torch, and triton where there is a card.
"""

import functools
import logging

import torch
from torch import Tensor

log = logging.getLogger(__name__)


def fuses(x: Tensor) -> bool:
    """Whether a tensor is computed by kernels of our own: on a card, with Triton and a compiler."""
    return x.is_cuda and _builds()


@functools.cache
def _builds() -> bool:
    try:
        from trimtab.train.stream.cuda.triton_kernels import gated

        one = torch.ones(1, device="cuda")
        return bool(gated(one, one).isfinite().all())
    except torch.OutOfMemoryError:  # which says nothing of the kernels, and is not remembered
        raise
    except Exception as error:  # no triton, no compiler for its launcher, a card it does not know
        log.warning("no kernels in Triton here, torch's own compute the same, slower: %s", error)
        return False
