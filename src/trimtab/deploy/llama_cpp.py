"""A LoRA adapter as llama.cpp loads it: one GGUF file, served beside the GGUF of its base.

The layout is that of llama.cpp's own converter (convert_lora_to_gguf.py of ggml-org/llama.cpp):
the type `adapter`, `adapter.lora.alpha`, and for each module NAME two tensors, NAME.lora_a [rank,
inputs] and NAME.lora_b [outputs, rank], under the base's names in a GGUF. What is computed is
alpha / rank * B A. Reads files of PEFT's layout, imports gguf and knows no torch.
"""

import errno
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import ProjectError
from trimtab.registry.tensors import Tensor, opened
from trimtab.registry.weights import read_json
from trimtab.store.disk import is_full, keep_whole, no_room, storing, temporary_name

if TYPE_CHECKING:
    from gguf import TensorNameMap

Matrix = NDArray[np.float32]

PREFIX, HALVES = "base_model.model.", {".lora_A.weight": ".lora_a", ".lora_B.weight": ".lora_b"}
# What PEFT may do to a pair that a GGUF has no place for, by the field that says so.
BEYOND = {
    "use_dora": "DoRA learns a magnitude beside the pair",
    "rank_pattern": "its ranks differ from module to module",
    "alpha_pattern": "its scales differ from module to module",
    "layer_replication": "it repeats layers of the base",
    "fan_in_fan_out": "its matrices are transposed",
    "alora_invocation_tokens": "it is switched on by tokens",
    "modules_to_save": "it brings whole modules of its own",
}
ELSEWHERE = "serve it with Trimtab, or load it in PEFT: trimtab export VERSION FOLDER"


@dataclass(frozen=True, slots=True)
class Architecture:
    """How llama.cpp calls a family of models. It rotates neighbouring numbers of a head where the
    Hub's Llama rotates its two halves, so their GGUFs hold the rows of q and k in another order:
    `reordered`.
    """

    name: str
    reordered: bool


# By `model_type`; each was held against llama.cpp (tests/deploy/test_llama_cpp.py).
ARCHITECTURES = {
    "llama": Architecture("llama", reordered=True),
    "mistral": Architecture("llama", reordered=True),
    "qwen2": Architecture("qwen2", reordered=False),
    "qwen3": Architecture("qwen3", reordered=False),
}


def write_gguf(adapter: Path, base: Path, file: Path, name: str = "") -> None:
    """Write the adapter in the folder `adapter` as `file`, whole or not at all, in float32.

    `base` is the folder of its base, of which only `config.json` is read; `name` is the model's
    name in the file. Raises ProjectError where llama.cpp could not compute it, BaseError for files
    that are damaged, and StorageFull.
    """
    from gguf import GGUFWriter

    settings, model = read_json(adapter / "adapter_config.json"), read_json(base / "config.json")
    architecture = _architecture(model)
    _must_be_plain(settings)
    names = _names(architecture, model)
    draft = temporary_name(file)
    writer = GGUFWriter(draft, architecture.name)
    with storing(file), ExitStack() as stack:
        stack.callback(draft.unlink, missing_ok=True)
        # Where the disk is full it is open yet.
        stack.callback(writer.close)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", _alpha(settings))
        if name:
            writer.add_name(name)
        for tensor, matrix in _matrices(adapter / "adapter_model.safetensors"):
            module, half = _split(tensor, names)
            if architecture.reordered and half == ".lora_b":
                matrix = _reordered(matrix, module, model)
            writer.add_tensor(f"{module}.weight{half}", matrix)
        with _cut_short(file):
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            keep_whole(draft, file)


@contextmanager
def _cut_short(file: Path) -> Iterator[None]:
    """numpy tells of a write that came to no end, and not why."""
    try:
        yield
    except OSError as error:
        if error.errno is None and is_full(file):
            raise no_room(file, os.strerror(errno.ENOSPC)) from error
        raise


def _architecture(model: dict[str, Any]) -> Architecture:
    kind = model.get("model_type")
    if kind not in ARCHITECTURES:
        raise ProjectError(
            f"no GGUF of an adapter for the architecture '{kind}'",
            hint=f"known: {', '.join(ARCHITECTURES)}; {ELSEWHERE}",
        )
    return ARCHITECTURES[kind]


def _must_be_plain(settings: dict[str, Any]) -> None:
    if (kind := settings.get("peft_type")) != "LORA":
        raise ProjectError(f"llama.cpp knows LoRA alone, and this is {kind}", hint=ELSEWHERE)
    if settings.get("bias", "none") != "none":
        raise ProjectError("llama.cpp's adapters have no biases", hint=ELSEWHERE)
    for field, why in BEYOND.items():
        if settings.get(field):
            raise ProjectError(f"llama.cpp cannot compute this adapter: {why}", hint=ELSEWHERE)


def _alpha(settings: dict[str, Any]) -> float:
    """What llama.cpp divides by the rank. rsLoRA divides by its root (Kalajdzievski 2023)."""
    alpha, rank = float(settings["lora_alpha"]), int(settings["r"])
    return alpha * math.sqrt(rank) if settings.get("use_rslora") else alpha


def _names(architecture: Architecture, model: dict[str, Any]) -> "TensorNameMap":
    from gguf import MODEL_ARCH, get_tensor_name_map

    return get_tensor_name_map(MODEL_ARCH[architecture.name.upper()], model["num_hidden_layers"])


def _split(tensor: str, names: "TensorNameMap") -> tuple[str, str]:
    """The module's name in a GGUF, and which half of its pair a tensor is."""
    for end, half in HALVES.items():
        if tensor.startswith(PREFIX) and tensor.endswith(end):
            found = names.get_name(tensor.removeprefix(PREFIX).removesuffix(end))
            if found is not None:
                return found, half
    raise ProjectError(f"llama.cpp has no place for the tensor '{tensor}'", hint=ELSEWHERE)


def _reordered(rows: Matrix, module: str, model: dict[str, Any]) -> Matrix:
    """The rows of B as the rows of its matrix stand in a GGUF: of each head of q and k, [outputs,
    rank], its two halves interleaved.
    """
    if module.endswith("attn_q"):
        heads = model["num_attention_heads"]
    elif module.endswith("attn_k"):
        heads = model.get("num_key_value_heads") or model["num_attention_heads"]
    else:
        return rows
    halves = rows.reshape(heads, 2, -1, rows.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def _matrices(file: Path) -> Iterator[tuple[str, Matrix]]:
    """The tensors of a safetensors file in float32, by name."""
    with opened(file) as (tensors, data):
        for tensor in sorted(tensors, key=lambda each: each.name):
            yield tensor.name, _float32(tensor, data)


def _float32(tensor: Tensor, data: memoryview) -> Matrix:
    with data[tensor.start : tensor.end] as view:
        if tensor.dtype == "BF16":
            # The upper half of a float32, bit for bit.
            numbers = (np.frombuffer(view, "<u2").astype("<u4") << 16).view("<f4")
        elif tensor.dtype in ("F16", "F32"):
            numbers = np.frombuffer(view, "<f2" if tensor.dtype == "F16" else "<f4")
        else:
            raise ProjectError(
                f"tensor '{tensor.name}' is of the type {tensor.dtype}", hint=ELSEWHERE
            )
        return numbers.astype(np.float32).reshape(tensor.shape)
