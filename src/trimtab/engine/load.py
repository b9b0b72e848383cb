"""A base from its files into memory, refused where they are not what they claim to be.

Weights are safetensors and nothing else; no code of a model's repository runs. Knows nothing of
adapters and requests.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel

from trimtab.engine.faults import first_line
from trimtab.errors import BaseError

BASE_HINT = "a base is config.json, tokenizer.json and model.safetensors; pull it again"

# What the libraries raise for one cause: files that are not what they should be.
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    SafetensorError,
)


def load_base(folder: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The causal language model in `folder`, ready to answer.

    Raises BaseError where a file is missing or truncated, and where a weight is missing,
    misshapen or not finite.
    """
    _check_safetensors(folder)
    try:
        # Its annotations do not know of the pair that `output_loading_info` makes it return.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except UNREADABLE as error:
        raise BaseError(f"{folder}: {first_line(error)}", hint=BASE_HINT) from error
    model, report = loaded
    absent = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if absent:
        raise BaseError(
            f"{folder}: {len(absent)} weights are missing or misshapen, the first is {absent[0]}",
            hint=BASE_HINT,
        )
    if broken := first_not_finite(model.named_parameters()):
        raise BaseError(f"{folder}: {broken} holds NaN or infinity", hint=BASE_HINT)
    return model.to(device).eval()  # type: ignore[no-any-return]


def first_not_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """A sum is finite only where all its terms are, and it needs no second copy of the tensor."""
    for name, tensor in tensors:
        if not torch.isfinite(tensor.detach().sum(dtype=torch.float64)):
            return name
    return None


def _check_safetensors(folder: Path) -> None:
    """Read the header of every weights file: the library compares it with the file's size."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BaseError(f"{folder}: holds no safetensors file", hint=BASE_HINT)
    for path in files:
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise BaseError(f"{path}: {first_line(error)}", hint=BASE_HINT) from error
