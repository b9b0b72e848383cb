"""The model as a run trains it: a base with its adapter, or the base itself, every weight of it.

Also the proof that only what should change will change. Imports torch, transformers and peft;
import this module only where a run starts.
"""

import hashlib
import importlib
import math
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from trimtab.bottleneck import Attached as Bottlenecks
from trimtab.errors import BaseError, IdentityError, ProjectError
from trimtab.train.methods import METHODS, Method, bottleneck, method_of
from trimtab.train.objectives import objective_of
from trimtab.train.settings import TrainSettings
from trimtab.train.speed import Device
from trimtab.train.stream.walk import LONGEST

Trained = PeftModel | PreTrainedModel
# Free memory over the size of the weights, before a second base is put beside the first.
ROOM = 1.3


@dataclass(frozen=True, slots=True)
class Attached:
    """A model ready to train. `modules` counts those that an adapter is attached to, or that hold
    its virtual tokens; `trainable` and `total` count parameters; `base_fingerprint` is of the base
    before the first step; `bottlenecks` is there where they are the adapter: PEFT knows none.
    """

    model: Trained
    method: Method
    modules: int
    trainable: int
    total: int
    base_fingerprint: str
    bottlenecks: Bottlenecks | None = None

    def must_still_be(self, fingerprint: str) -> None:
        """Raise IdentityError where a frozen parameter has changed."""
        if self.method.frozen and _fingerprint(self.model, self.method) != fingerprint:
            raise IdentityError("training changed weights of the base, which must stay frozen")


def attach(base: Path, settings: TrainSettings, device: Device) -> Attached:
    """Load a base and make it ready for the method, an adapter drawn from the seed.

    Raises BaseError for a folder that holds no model, ProjectError for targets that match nothing.
    """
    transformers.set_seed(settings.seed)
    method = method_of(settings.method)
    scores = not objective_of(settings.objective).answers
    attached = adapt(load(base, device, method, scores=scores), base, settings)
    return replace(attached, base_fingerprint=_fingerprint(attached.model, method))


def adapt(loaded: PreTrainedModel, base: Path, settings: TrainSettings) -> Attached:
    """The same for a base that is loaded already, its fingerprint not taken; `base` is the folder
    that it is of.
    """
    method = method_of(settings.method)
    objective = objective_of(settings.objective)
    if not objective.rollouts:
        # KTO's KL is estimated on answers behind the prompts of others: each within the length.
        records = 2 if objective.needs == "judgement" else 1
        setattr(loaded, LONGEST, records * settings.max_length)
    model: Trained = loaded
    bottlenecks = None
    if method.name == "bottleneck":
        bottlenecks = bottleneck.attached(loaded, settings)
    elif method.frozen:
        model = _adapted(loaded, base, settings)
    sizes = [(_size(item), item.requires_grad) for item in model.parameters()]
    return Attached(
        model=model,
        method=method,
        modules=_modules(model, bottlenecks),
        trainable=sum(size for size, trained in sizes if trained),
        total=sum(size for size, _ in sizes),
        base_fingerprint="",
        bottlenecks=bottlenecks,
    )


def _modules(model: Trained, bottlenecks: Bottlenecks | None) -> int:
    if bottlenecks is not None:
        return len(bottlenecks.modules)
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return len(model.prompt_encoder)
    return sum(isinstance(module, BaseTunerLayer) for module in model.modules())


def load(base: Path, device: Device, method: Method, *, scores: bool = False) -> PreTrainedModel:
    """The base on its device; what is trained whole has its master weights in float32.

    With `scores` it has a new scalar head, drawn from the seed, in the place of its language head.
    """
    dtype = getattr(torch, device.dtype) if method.frozen else torch.float32
    # A base in 4 bits is never whole in another width, so it is placed as it is read.
    more: dict[str, Any] = {"num_labels": 1} if scores else {}
    if method.quantised:
        from trimtab.train.methods import qlora

        more |= {"quantization_config": qlora.quantisation(dtype), "device_map": device.name}
    kind = "AutoModelForSequenceClassification" if scores else "AutoModelForCausalLM"
    try:
        model: Any = getattr(transformers, kind).from_pretrained(
            base, dtype=dtype, use_safetensors=True, local_files_only=True, **more
        )
    except (OSError, ValueError) as error:
        raise BaseError(
            f"{base}: cannot be loaded as a causal language model: {_first_line(error)}",
            hint="a base is a folder with config.json, tokenizer.json and *.safetensors",
        ) from error
    placed: PreTrainedModel = model if method.quantised else model.to(device.name)
    return placed


def as_served(attached: Attached, base: Path, adapter: Path, device: Device) -> Trained:
    """The model that will answer: of a base that was trained on in 4 bits, its full weights.

    Where the device has no room for them beside what is trained, the CPU computes.
    """
    if not attached.method.quantised:
        return attached.model
    size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    if device.name != "cpu" and torch.cuda.mem_get_info()[0] < ROOM * size:
        device = Device("cpu", device.dtype)
    whole = PeftModel.from_pretrained(load(base, device, METHODS["lora"]), str(adapter))
    assert isinstance(whole, PeftModel)
    return whole


def widen(model: Trained) -> None:
    """Keep what is trained in float32, as PEFT does over a base that is not quantised.

    TRL narrows it to bfloat16 over one that is, which Adam's small steps do not survive.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _adapted(model: PreTrainedModel, base: Path, settings: TrainSettings) -> PeftModel:
    module = importlib.import_module(f"trimtab.train.methods.{settings.method}")
    try:
        answers = objective_of(settings.objective).answers
        task = "CAUSAL_LM" if answers else "SEQ_CLS"
        adapted = get_peft_model(model, module.config(settings, task))
    except ValueError as error:
        if "arget" not in str(error):
            raise
        if not method_of(settings.method).targeted:
            raise ProjectError(
                f"train.method: {settings.method} does not know the layers of {base.name}",
                hint="lora fits every base",
            ) from None
        targets = settings.targets if isinstance(settings.targets, str) else [*settings.targets]
        raise ProjectError(
            f"train.targets: no module of {base.name} matches {targets!r}",
            hint='use "all-linear", or names such as q_proj and v_proj',
        ) from None
    assert isinstance(adapted, PeftModel)
    return adapted


def _size(parameter: torch.nn.Parameter) -> int:
    """How many numbers it holds; in 4 bits two lie in one byte."""
    packed: Any = getattr(parameter, "quant_state", None)
    return parameter.numel() if packed is None else int(math.prod(packed.shape))


def _fingerprint(model: Trained, method: Method) -> str:
    """SHA-256 over every parameter of the base in memory, about a second a gigabyte and core.

    All of them and not a sample: at that price there is no reason to trust a sample. Of matrices in
    4 bits their scales count too, and the order of bytes that they are stored in.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    kept = trained if method.frozen else set()
    held = [(name, tensor) for name, tensor in sorted(_held(model, method)) if name not in kept]
    hasher = hashlib.sha256()
    # Each by itself, on every core: of eight billion weights one core alone makes half a minute.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as cores:
        for (name, _), digest in zip(held, cores.map(_digest, held), strict=True):
            hasher.update(name.encode())
            hasher.update(digest)
    return hasher.hexdigest()


def _digest(named: tuple[str, torch.Tensor]) -> bytes:
    raw = named[1].detach().cpu().contiguous().view(-1).view(torch.uint8)
    return hashlib.sha256(raw.numpy().data).digest()


def _held(model: Trained, method: Method) -> list[tuple[str, torch.Tensor]]:
    if method.quantised:
        # bitsandbytes may reorder a matrix to compute with it; here it is as it is stored.
        return list(model.state_dict().items())
    return list(model.named_parameters())


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
