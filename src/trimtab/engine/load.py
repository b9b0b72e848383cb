"""Weights from files into memory, refused where they are not what they claim to be.

Weights are safetensors and nothing else; no code of a model's repository runs. Knows nothing of
requests.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from trimtab.engine.faults import first_line
from trimtab.errors import BaseError, IdentityError

BASE_HINT = "a base is config.json, tokenizer.json and model.safetensors; pull it again"
ADAPTER_HINT = "the adapter was not trained on this base, or its files are damaged"

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
    if broken := _first_not_finite(model.named_parameters()):
        raise BaseError(f"{folder}: {broken} holds NaN or infinity", hint=BASE_HINT)
    return model.to(device).eval()  # type: ignore[no-any-return]


def attach_adapter(model: PreTrainedModel | PeftModel, name: str, folder: Path) -> PeftModel:
    """Lay the adapter in `folder` over the model's own layers under `name`, switched off or on
    by `PeftModel.set_adapter`.

    Raises IdentityError, and leaves no trace of the adapter, unless what the model then holds
    equals the file, tensor by tensor: an adapter that attaches to nothing would answer as the
    base does, and nobody would notice.
    """
    try:
        weights = load_file(folder / "adapter_model.safetensors")
        config = _lora_config(folder)
        if isinstance(model, PeftModel):
            model.add_adapter(name, config)
        else:
            model = PeftModel(model, config, adapter_name=name)
    except UNREADABLE as error:
        raise IdentityError(f"{folder}: {first_line(error)}", hint=ADAPTER_HINT) from error
    try:
        _fill_adapter(model, name, folder, weights)
    except IdentityError:
        detach_adapter(model, name)
        raise
    return model.eval()


def detach_adapter(model: PeftModel, name: str) -> PeftModel | None:
    """Forget an adapter. With the last one the layers of PEFT go too, and None is returned."""
    others = [other for other in model.peft_config if other != name]
    if others:
        # PEFT warns where the active adapter is deleted.
        model.set_adapter(others[0], inference_mode=True)
        model.delete_adapter(name)
        return model
    model.unload()
    return None


def _lora_config(folder: Path) -> LoraConfig:
    config = PeftConfig.from_pretrained(str(folder), local_files_only=True)
    if not isinstance(config, LoraConfig):
        raise ValueError(f"adapters of type {config.peft_type} are not served, only LoRA is")
    # Some starts, PiSSA for one, take parts out of the base's weights; training did that already.
    config.init_lora_weights = True
    return config


def _fill_adapter(
    model: PeftModel, name: str, folder: Path, weights: dict[str, torch.Tensor]
) -> None:
    try:
        model.load_adapter(str(folder), name, local_files_only=True)
    except UNREADABLE as error:
        raise IdentityError(f"{folder}: {first_line(error)}", hint=ADAPTER_HINT) from error
    held = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    strays = sorted(weights.keys() ^ held.keys())
    if strays or not weights:
        raise IdentityError(
            f"{folder}: {len(strays)} of {len(weights)} weights attach to nothing or are missing"
            + (f", the first is {strays[0]}" if strays else ""),
            hint=ADAPTER_HINT,
        )
    if broken := _first_not_finite(weights.items()):
        raise IdentityError(f"{folder}: {broken} holds NaN or infinity", hint=ADAPTER_HINT)
    for key, weight in weights.items():
        if not torch.equal(held[key].cpu(), weight.to(held[key].dtype)):
            raise IdentityError(f"{folder}: {key} was not loaded as it is", hint=ADAPTER_HINT)


def load_merged(base: Path, adapter: Path | None, device: torch.device) -> PreTrainedModel:
    """A copy of the base in float32 with the adapter folded into its weights."""
    model = load_base(base, torch.float32, device)
    if adapter is None:
        return model
    merged: PreTrainedModel = attach_adapter(model, "merged", adapter).merge_and_unload()
    return merged


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


def _first_not_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """A sum is finite only where all its terms are, and it needs no second copy of the tensor."""
    for name, tensor in tensors:
        if not torch.isfinite(tensor.detach().sum(dtype=torch.float64)):
            return name
    return None
