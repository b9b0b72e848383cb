"""The sizes of a base, read from its config and the headers of its weights; no weight is read.

Knows decoders of the Llama family: attention, a gated MLP, layers under `.layers.`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import BaseError, ProjectError
from trimtab.registry.tensors import Tensor, opened
from trimtab.registry.weights import read_json, weight_files


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
    config, tensors = read_json(base / "config.json"), _tensors(base)
    linears = {
        tensor.name.removesuffix(".weight"): (tensor.shape[0], tensor.shape[1])
        for tensor in tensors
        if ".layers." in tensor.name and tensor.name.endswith(".weight") and len(tensor.shape) == 2
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
            parameters=sum(tensor.size for tensor in tensors),
            linears=linears,
        )
    except KeyError as error:
        raise BaseError(
            f"{base / 'config.json'}: has no {error}",
            hint="the planner knows decoders of the Llama family",
        ) from None


def _tensors(base: Path) -> list[Tensor]:
    """Where every tensor lies, by the headers of the files that a loader would read."""
    found: list[Tensor] = []
    for file in weight_files(base):
        with opened(file) as (tensors, _):
            found += tensors
    return found
