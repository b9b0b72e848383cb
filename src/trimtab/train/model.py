"""The base with an adapter attached, and the proof that only the adapter will change.

Imports torch, transformers and peft; import this module only where a run starts.
"""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer

from trimtab.errors import BaseError, IdentityError, ProjectError
from trimtab.train.settings import TrainSettings
from trimtab.train.speed import Device


@dataclass(frozen=True, slots=True)
class Attached:
    """A base with a fresh adapter. `trainable` and `total` count parameters."""

    model: PeftModel
    modules: int
    trainable: int
    total: int

    @property
    def base_fingerprint(self) -> str:
        """SHA-256 over every frozen parameter in memory, about a second a gigabyte.

        All of them and not a sample: at that price there is no reason to trust a sample.
        """
        hasher = hashlib.sha256()
        for name, parameter in sorted(self.model.named_parameters()):
            if not parameter.requires_grad:
                hasher.update(name.encode())
                raw = parameter.detach().cpu().contiguous().view(torch.uint8)
                hasher.update(raw.numpy().data)
        return hasher.hexdigest()

    def must_still_be(self, fingerprint: str) -> None:
        """Raise IdentityError where a frozen parameter has changed."""
        if self.base_fingerprint != fingerprint:
            raise IdentityError("training changed weights of the base, which must stay frozen")


def attach(base: Path, settings: TrainSettings, device: Device) -> Attached:
    """Load a base and attach a LoRA adapter drawn from the seed.

    Raises BaseError for a folder that holds no model, ProjectError for targets that match nothing.
    """
    transformers.set_seed(settings.seed)
    model = _load(base, device)
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT divides it; floats are fine
        lora_dropout=settings.dropout,
        target_modules=targets,
    )
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        if "arget module" not in str(error):
            raise
        raise ProjectError(
            f"train.targets: no module of {base.name} matches {targets!r}",
            hint='use "all-linear", or names such as q_proj and v_proj',
        ) from None
    assert isinstance(adapted, PeftModel)
    modules = sum(isinstance(module, BaseTunerLayer) for module in adapted.modules())
    sizes = [(item.numel(), item.requires_grad) for item in adapted.parameters()]
    trainable = sum(size for size, trained in sizes if trained)
    return Attached(adapted, modules, trainable, sum(size for size, _ in sizes))


def _load(base: Path, device: Device) -> transformers.PreTrainedModel:
    try:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            base, dtype=getattr(torch, device.dtype), use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise BaseError(
            f"{base}: cannot be loaded as a causal language model: {_first_line(error)}",
            hint="a base is a folder with config.json, tokenizer.json and *.safetensors",
        ) from error
    placed: transformers.PreTrainedModel = model.to(device.name)
    return placed


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the bars and remarks of the libraries below; trimtab speaks for itself."""
    import datasets

    level = transformers.logging.get_verbosity()
    bars = datasets.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(level)
        transformers.logging.enable_progress_bar()  # type: ignore[no-untyped-call]
        if bars:
            datasets.enable_progress_bars()
