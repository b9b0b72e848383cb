"""The bottleneck adapter, defined once for training and serving (Houlsby et al., 2019).

    y = x + up(activation(down(x)))

at the output x of every attention and of every MLP, before the block's residual addition; `down` is
(size, hidden), `up` (hidden, size), both with a bias. `up` begins at zero, so that an untrained
adapter changes nothing. On disk it is `adapter_model.safetensors` and `adapter_config.json` with
the `peft_type` "BOTTLENECK", which is ours and not PEFT's.

Knows where decoders of transformers keep their attention and MLP, and nothing of training loops and
requests. Needs torch, so nothing that must answer without it may import this.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from trimtab.errors import BaseError, IdentityError

PEFT_TYPE = "BOTTLENECK"
Activation = Literal["relu", "gelu", "silu"]
Place = Literal["attention", "mlp"]
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
}

# A sublayer is a child of a numbered block: `model.layers.0.self_attn`, `transformer.h.3.mlp`. A
# block without a module for its MLP ends it in `fc2`.
NAMES: dict[str, tuple[str, ...]] = {
    "attention": ("self_attn", "attn", "attention", "self_attention"),
    "mlp": ("mlp", "ffn", "feed_forward", "block_sparse_moe", "fc2"),
}
SUBLAYER = re.compile(r"[a-z_.]*[a-z_]\.\d+\.([a-z_0-9]+)", re.IGNORECASE)

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
HINT = "the adapter was not trained on this base, or its files are damaged"


@dataclass(frozen=True, slots=True)
class BottleneckConfig:
    """`size` is the width of the bottleneck, `places` the sublayers that get one."""

    size: int = 64
    activation: Activation = "gelu"
    places: tuple[Place, ...] = ("attention", "mlp")

    def to_dict(self, base: str = "") -> dict[str, Any]:
        """As `adapter_config.json` has it; `base` is where the base came from."""
        return {
            "peft_type": PEFT_TYPE,
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "size": self.size,
            "activation": self.activation,
            "places": list(self.places),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "BottleneckConfig":
        """Raises ValueError where a field is missing or not what it should be."""
        size, places = value.get("size"), value.get("places")
        if value.get("peft_type") != PEFT_TYPE:
            raise ValueError(f"peft_type is {value.get('peft_type')!r}, not {PEFT_TYPE}")
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"size is {size!r}, not a width")
        if value.get("activation") not in ACTIVATIONS:
            raise ValueError(f"activation is {value.get('activation')!r}; known: {[*ACTIVATIONS]}")
        known = set(get_args(Place))
        if not isinstance(places, list | tuple) or not places or not set(places) <= known:
            raise ValueError(f"places are {places!r}; known: {sorted(known)}")
        return cls(size, value["activation"], tuple(sorted(set(places))))


class Bottleneck(nn.Module):
    """One adapter of one sublayer; input and output are (..., hidden).

    It computes in the dtype of its own weights and answers in that of its input.
    """

    def __init__(self, hidden: int, size: int, activation: Activation) -> None:
        super().__init__()
        self.down = nn.Linear(hidden, size)
        self.up = nn.Linear(size, hidden)
        self._activation = ACTIVATIONS[activation]
        nn.init.normal_(self.down.weight, std=0.02)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inside = self._activation(self.down(x.to(self.down.weight.dtype)))
        correction: torch.Tensor = self.up(inside)
        return x + correction.to(x.dtype)


class Attached:
    """The bottlenecks of one adapter on one model. `active` says whether they work.

    Several may be attached to one model; of those that are active each takes what the one before
    it gave.
    """

    def __init__(self, model: nn.Module, config: BottleneckConfig, name: str) -> None:
        self.config = config
        self.active = True
        self._name = name
        self._hosts: dict[str, nn.Module] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        hidden = _hidden(model)
        like = next(model.parameters())
        for path, host in _sublayers(model, config.places):
            bottleneck = Bottleneck(hidden, config.size, config.activation)
            host.add_module(name, bottleneck.to(device=like.device, dtype=torch.float32))
            self._hosts[path] = host
            self._hooks.append(host.register_forward_hook(self._apply))

    @property
    def modules(self) -> dict[str, Bottleneck]:
        """By the path of the sublayer that they follow."""
        return {path: self._of(host) for path, host in self._hosts.items()}

    def parameters(self) -> Iterator[nn.Parameter]:
        for module in self.modules.values():
            yield from module.parameters()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The adapter's tensors under the names that its file gives them."""
        return {
            f"{path}.bottleneck.{name}": tensor
            for path, module in self.modules.items()
            for name, tensor in module.state_dict().items()
        }

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Raises IdentityError, and changes nothing, unless every tensor has its place, every place
        its tensor, and all of them are finite and of the right shape.
        """
        held = self.state_dict()
        if strays := sorted(tensors.keys() ^ held.keys()):
            raise IdentityError(
                f"{len(strays)} of {len(tensors)} weights attach to nothing or are missing,"
                f" the first is {strays[0]}",
                hint=HINT,
            )
        for key, tensor in tensors.items():
            if tensor.shape != held[key].shape:
                found, wanted = tuple(tensor.shape), tuple(held[key].shape)
                raise IdentityError(f"{key} is of shape {found}, not {wanted}", hint=HINT)
            if not torch.isfinite(tensor.sum(dtype=torch.float64)):
                raise IdentityError(f"{key} holds NaN or infinity", hint=HINT)
        with torch.no_grad():
            for key, tensor in tensors.items():
                held[key].copy_(tensor)

    @contextmanager
    def switched(self, active: bool) -> Iterator[None]:
        """Work, or do not, for as long as the block runs."""
        before, self.active = self.active, active
        try:
            yield
        finally:
            self.active = before

    def to(self, dtype: torch.dtype) -> "Attached":
        """Keep the adapter's weights in another dtype: float32 to train, the base's to serve."""
        for module in self.modules.values():
            module.to(dtype)
        return self

    def remove(self) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()
        for host in self._hosts.values():
            delattr(host, self._name)
        self._hooks, self._hosts = [], {}

    def _of(self, host: nn.Module) -> Bottleneck:
        module = getattr(host, self._name)
        assert isinstance(module, Bottleneck)
        return module

    def _apply(self, host: nn.Module, arguments: Any, output: Any) -> Any:
        if not self.active:
            return None
        bottleneck = self._of(host)
        # Attention answers with its weights, a mixture of experts with its router's choice, behind.
        if isinstance(output, tuple):
            return (bottleneck(output[0]), *output[1:])
        return bottleneck(output)


def attach(model: nn.Module, config: BottleneckConfig, name: str = "bottleneck") -> Attached:
    """Put a new adapter, in float32, behind the sublayers of `model`; its parameters are then among
    the model's, on the model's device.

    The base's own parameters are left as they are: freeze them before. `name` tells several
    adapters on one model apart. Raises BaseError where the architecture has no sublayer of a place.
    """
    return Attached(model, config, name)


def save(attached: Attached, folder: Path, base: str = "") -> None:
    """Write weights and config into `folder`, in float32; `base` is where the base came from."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in attached.state_dict().items()
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.dumps(attached.config.to_dict(base), indent=2, sort_keys=True)
    (folder / CONFIG).write_text(config + "\n", encoding="utf-8")


def load(model: nn.Module, folder: Path, name: str = "bottleneck") -> Attached:
    """Attach the adapter in `folder`.

    Raises IdentityError, and leaves no trace of it, where it is not whole or not of this model;
    ValueError, OSError and SafetensorError where its files cannot be read.
    """
    config = BottleneckConfig.from_dict(json.loads((folder / CONFIG).read_bytes()))
    tensors = load_file(folder / WEIGHTS)
    attached = attach(model, config, name)
    try:
        attached.load_state_dict(tensors)
    except IdentityError as error:
        attached.remove()
        raise IdentityError(f"{folder}: {error.message}", hint=error.hint) from None
    return attached


def _sublayers(model: nn.Module, places: tuple[Place, ...]) -> list[tuple[str, nn.Module]]:
    found: dict[Place, list[tuple[str, nn.Module]]] = {place: [] for place in places}
    for path, module in model.named_modules():
        match = SUBLAYER.fullmatch(path)
        for place in places:
            if match is not None and match[1] in NAMES[place]:
                found[place].append((path, module))
    for place, modules in found.items():
        if not modules:
            raise BaseError(
                f"{type(model).__name__}: no {place} found that a bottleneck could follow",
                hint=f"known names: {', '.join(NAMES[place])}; LoRA takes any linear layer",
            )
    return [each for modules in found.values() for each in modules]


def _hidden(model: nn.Module) -> int:
    config: Any = model.config
    return int(config.get_text_config().hidden_size)
