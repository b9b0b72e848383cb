"""A LoRA adapter from its files into the form that is added beside the fused projections.

A projection W with an adapter computes W x + s B A x (Hu et al., 2021); rsLoRA divides alpha by the
root of the rank (Kalajdzievski, 2023), DoRA gives each output the length that it learned (Liu et
al., 2024). The projections of one fused matrix share one pair: the A's stacked, the B's apart, with
s folded in.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from trimtab.engine.llama.family import Shape
from trimtab.engine.llama.pages import Pages
from trimtab.engine.llama.pair import AnyPair, Pair, Up
from trimtab.engine.llama.weights import PARTS, Weights, widths
from trimtab.errors import IdentityError

HINT = "the adapter was not trained on this base, or its files are damaged"
KEY = re.compile(
    r"base_model\.model\.model\.layers\.(\d+)\.([a-z_]+\.[a-z_]+)"
    r"\.(lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?"
)
# With one of these set an adapter is more than a pair beside a projection: the general path's.
BEYOND = (
    "alpha_pattern",
    "exclude_modules",
    "fan_in_fan_out",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_qalora",
    "alora_invocation_tokens",
    "arrow_config",
)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Adapter:
    """`pairs` by (layer, fused projection); what an adapter leaves alone has none."""

    pairs: dict[tuple[int, str], AnyPair]


def read_config(folder: Path) -> dict[str, Any] | None:
    """The adapter's config; None where it is not a plain LoRA, rsLoRA or DoRA."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # The general path says what is wrong with the file.
        return None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        return None
    if any(config.get(field) for field in BEYOND) or config.get("bias", "none") != "none":
        return None
    plain = isinstance(config.get("r"), int) and isinstance(config.get("lora_alpha"), int | float)
    targets = config.get("target_modules")
    known = {name.rpartition(".")[2] for names in PARTS.values() for name in names}
    if not plain or not isinstance(targets, list) or not set(targets) <= known:
        return None
    return config


Arrange = Callable[[Pair, Pages], AnyPair]
"""Makes of a pair in float32 what is computed with, in memory of its own."""


def load_adapter(
    folder: Path, config: dict[str, Any], shape: Shape, weights: Weights, arrange: Arrange
) -> Adapter:
    """Raises IdentityError unless every weight of the file has its place in the base, and every
    place that the config names has its weights: what attaches to nothing would answer as the base
    does, and nobody would notice.
    """
    if config["r"] > shape.hidden:
        raise IdentityError(
            f"{folder}: its rank of {config['r']} is more than the base is wide, {shape.hidden}",
            hint=HINT,
        )
    if config["r"] < 1 or not math.isfinite(config["lora_alpha"]) or not config["target_modules"]:
        told = {name: config[name] for name in ("r", "lora_alpha", "target_modules")}
        raise IdentityError(f"{folder}: changes nothing, or nothing finite: {told}", hint=HINT)
    path = folder / "adapter_model.safetensors"
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise IdentityError(f"{folder}: {error}", hint=HINT) from error
    found = _by_place(folder, tensors)
    _check(folder, found, config, shape)
    root = math.sqrt(config["r"]) if config.get("use_rslora") else config["r"]
    scale = config["lora_alpha"] / root
    pairs: dict[tuple[int, str], AnyPair] = {}
    pages = Pages()
    for layer in range(shape.layers):
        for group, names in PARTS.items():
            places = [found.get((layer, name)) for name in names]
            if any(places):
                pair = _fuse(layer, group, places, scale, shape, weights)
                pairs[layer, group] = arrange(pair, pages)
    return Adapter(pairs)


Place = dict[str, torch.Tensor]


def _by_place(folder: Path, tensors: dict[str, torch.Tensor]) -> dict[tuple[int, str], Place]:
    found: dict[tuple[int, str], Place] = {}
    for key, tensor in tensors.items():
        match = KEY.fullmatch(key)
        if match is None:
            raise IdentityError(f"{folder}: weight {key} attaches to nothing", hint=HINT)
        if not torch.isfinite(tensor.sum(dtype=torch.float64)):
            raise IdentityError(f"{folder}: {key} holds NaN or infinity", hint=HINT)
        layer, name, half = match.groups()
        found.setdefault((int(layer), name), {})[half] = tensor.float()
    return found


def _check(
    folder: Path,
    found: dict[tuple[int, str], Place],
    config: dict[str, Any],
    shape: Shape,
) -> None:
    expected = dict(_expected(config, shape))
    if strays := sorted(found.keys() - expected.keys()):
        layer, name = strays[0]
        raise IdentityError(
            f"{folder}: {len(strays)} of {len(found)} places attach to nothing, the first is"
            f" layers.{layer}.{name}",
            hint=HINT,
        )
    for place, sizes in expected.items():
        told = {half: tuple(tensor.shape) for half, tensor in found.get(place, {}).items()}
        if told != sizes:
            layer, name = place
            raise IdentityError(
                f"{folder}: layers.{layer}.{name} holds {told or 'nothing'}, expected {sizes}",
                hint=HINT,
            )


def _expected(
    config: dict[str, Any], shape: Shape
) -> Iterator[tuple[tuple[int, str], dict[str, tuple[int, ...]]]]:
    rank, targets = config["r"], config["target_modules"]
    for layer in range(shape.layers):
        for name, (outputs, inputs) in widths(shape).items():
            if name.rpartition(".")[2] in targets:
                sizes = {"lora_A": (rank, inputs), "lora_B": (outputs, rank)}
                if config.get("use_dora"):
                    sizes["lora_magnitude_vector"] = (outputs,)  # type: ignore[assignment]
                yield (layer, name), sizes  # type: ignore[misc]


def _fuse(
    layer: int,
    group: str,
    places: list[Place | None],
    scale: float,
    shape: Shape,
    weights: Weights,
) -> Pair:
    """One pair for the projections of a fused matrix, in float32."""
    linear = getattr(weights.layers[layer], group)
    outputs = [widths(shape)[name][0] for name in PARTS[group]]
    dora = any(place is not None and "lora_magnitude_vector" in place for place in places)
    ups: list[Up] = []
    lengthen = torch.ones(sum(outputs))
    rows = linear.rows().cpu() if dora else torch.empty(0)
    row = column = 0
    for place, width in zip(places, outputs, strict=True):
        if place is not None:
            delta = place["lora_B"] * scale
            ups.append(Up(delta.T, row, column))
            row += delta.shape[1]
            if "lora_magnitude_vector" in place:
                norm = (rows[column : column + width] + delta @ place["lora_A"]).norm(dim=1)
                lengthen[column : column + width] = place["lora_magnitude_vector"] / norm
        column += width
    down = torch.cat([place["lora_A"] for place in places if place is not None])
    return Pair(down, tuple(ups), lengthen if dora else None)
