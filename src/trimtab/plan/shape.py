"""The sizes of a base, read from its config and the headers of its weights; no weight is read.

Knows decoders of the Llama family: attention, a gated MLP, layers under `.layers.`.
"""

import json
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import BaseError, ProjectError

LONGEST_HEADER = 100 * 2**20


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes in elements. `linears` are the matrices of the layers: module name to (out, in)."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_values: int
    vocabulary: int
    parameters: int
    linears: dict[str, tuple[int, int]]

    @property
    def linear_parameters(self) -> int:
        return sum(rows * columns for rows, columns in self.linears.values())

    def lora_parameters(self, targets: str | Sequence[str], rank: int) -> int:
        """Trainable parameters of a LoRA adapter; `targets` as PEFT reads them.

        Raises ProjectError where they name no layer of this base.
        """
        hit = self._hit(targets)
        return sum(rank * (rows + columns) for rows, columns in hit)

    def target_outputs(self, targets: str | Sequence[str]) -> int:
        """Outputs of all targeted matrices: what DoRA learns beside its pairs."""
        return sum(rows for rows, _ in self._hit(targets))

    def _hit(self, targets: str | Sequence[str]) -> list[tuple[int, int]]:
        hit = [size for name, size in self.linears.items() if matches(name, targets)]
        if not hit:
            ends = sorted({name.rpartition(".")[2] for name in self.linears})
            raise ProjectError(
                f"train.targets: {targets!r} names no layer of this base",
                hint=f"all-linear, a regular expression, or some of: {', '.join(ends)}",
            )
        return hit


def matches(module: str, targets: str | Sequence[str]) -> bool:
    """PEFT's rule: "all-linear", a regular expression for the whole name, or endings of it.

    Raises ProjectError where it is no regular expression.
    """
    if isinstance(targets, str):
        try:
            return targets == "all-linear" or re.fullmatch(targets, module) is not None
        except re.error as error:
            raise ProjectError(
                f"train.targets: {targets!r} is no regular expression: {error}",
                hint="all-linear fits every base",
            ) from None
    return any(module == target or module.endswith(f".{target}") for target in targets)


def read_shape(base: Path) -> ModelShape:
    """Raises BaseError where the folder holds no model of a known kind."""
    config = _config(base)
    tensors = {
        name: shape for file in sorted(base.glob("*.safetensors")) for name, shape in _header(file)
    }
    linears = {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in tensors.items()
        if ".layers." in name and name.endswith(".weight") and len(shape) == 2
    }
    if not linears:
        raise BaseError(
            f"{base}: no layer weights in safetensors files",
            hint="a base is a folder with config.json and *.safetensors",
        )
    try:
        head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        return ModelShape(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            heads=config["num_attention_heads"],
            key_values=config.get("num_key_value_heads", config["num_attention_heads"]) * head,
            vocabulary=config["vocab_size"],
            parameters=sum(math.prod(shape) for shape in tensors.values()),
            linears=linears,
        )
    except KeyError as error:
        raise BaseError(
            f"{base / 'config.json'}: has no {error}",
            hint="the planner knows decoders of the Llama family",
        ) from None


def _config(base: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((base / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise BaseError(
            f"{base / 'config.json'}: cannot be read: {error}", hint="is this a model's folder?"
        ) from None
    return config


def _header(file: Path) -> list[tuple[str, list[int]]]:
    """Names and shapes of a safetensors file (https://github.com/huggingface/safetensors)."""
    with file.open("rb") as handle:
        raw = handle.read(8)
        length = struct.unpack("<Q", raw)[0] if len(raw) == 8 else LONGEST_HEADER + 1
        if length > LONGEST_HEADER:
            raise BaseError(f"{file}: not a safetensors file", hint="get the base again")
        try:
            header = json.loads(handle.read(length))
        except ValueError:
            raise BaseError(f"{file}: its header is torn", hint="get the base again") from None
    return [(name, entry["shape"]) for name, entry in header.items() if name != "__metadata__"]
