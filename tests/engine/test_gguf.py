"""A GGUF that is written here, small and whole, becomes a folder that the engine loads."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file

from tests.engine.paths import FAST, load, make_path, score
from tests.tiny import linear_shapes
from trimtab.engine.gguf import to_safetensors
from trimtab.errors import BaseError
from trimtab.inference import VersionFiles
from trimtab.text.tokenizer import Tokenizer

HIDDEN, HEADS, KV_HEADS, LAYERS = 64, 4, 2, 1
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(path: Path, base: Path) -> None:
    """A Llama with the vocabulary of the tiny base, in float32."""
    model = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i < 3 else 1 for i in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Any:
        return (torch.randn(shape, generator=generator) * 0.1).numpy()

    writer.add_tensor("token_embd.weight", random(len(tokens), HIDDEN))
    writer.add_tensor("output_norm.weight", random(HIDDEN))
    for layer in range(LAYERS):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", random(HIDDEN))
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", random(HIDDEN))
        for name, shape in linear_shapes(HIDDEN, HEADS, KV_HEADS).items():
            writer.add_tensor(f"blk.{layer}.{NAMES[name]}.weight", random(*shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_becomes_a_base_that_answers(base: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", base)
    folder = tmp_path / "cache" / "tiny"
    to_safetensors(tmp_path / "tiny.gguf", folder)
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {
        torch.bfloat16
    }
    path = make_path(folder, FAST)
    load(path, VersionFiles("base", folder, None, folder, (2,)))
    assert Tokenizer(folder).encode("My invoice") == Tokenizer(base).encode("My invoice")
    [found] = score(path, "base", [((5, 6, 7), (8, 9))])
    assert len(found.logprobs) == 2
    assert [entry.name for entry in folder.parent.iterdir()] == ["tiny"]
    before = sorted(folder.iterdir())
    to_safetensors(tmp_path / "no such.gguf", folder)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("content", [None, b"", b"GGUF", b"not a gguf at all" * 99])
def test_what_is_no_gguf_is_refused_and_leaves_nothing(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "broken.gguf"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BaseError, match=r"broken\.gguf") as caught:
        to_safetensors(file, tmp_path / "cache" / "broken")
    assert "\n" not in caught.value.message
    assert not list(tmp_path.glob("cache/*"))
