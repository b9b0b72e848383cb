"""What llama.cpp reads of an adapter is what PEFT computes: tensor by tensor, and in its answers.

`make test-llama` has a real llama.cpp answer; without it the file is read back by gguf's reader and
by transformers' own rule for the rows of q and k.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH, GGUFReader, GGUFWriter, get_tensor_name_map
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

from tests.tiny import build_adapter, build_base, build_tokenizer
from trimtab.deploy.llama_cpp import ARCHITECTURES, write_gguf
from trimtab.errors import ProjectError

HEADS, KV_HEADS, LAYERS, HIDDEN = 4, 2, 2, 64
KINDS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
ADAPTERS = {"lora": {}, "rslora": {"use_rslora": True}}
LLAMA = os.environ.get("TRIMTAB_TEST_LLAMA")
PROMPT, ANSWER = [5, 60, 71, 82, 93, 104], 12
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module", params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base of each architecture, no two of whose numbers are alike."""
    folder = build_tokenizer(tmp_path_factory.mktemp("base") / request.param)
    torch.manual_seed(7)
    vocabulary = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    config = KINDS[request.param](
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HIDDEN // HEADS,
        max_position_embeddings=256,
        tie_word_embeddings=False,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.15 + (parameter.ndim == 1))
    model.save_pretrained(folder)
    return folder


def build(folder: Path, base: Path, **more: Any) -> Path:
    """An adapter as PEFT saves it, on every linear layer, with no zero in A or B."""
    torch.manual_seed(8)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=6, target_modules="all-linear", **more
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    model.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("method", ADAPTERS)
def test_each_matrix_moves_as_in_peft(base: Path, tmp_path: Path, method: str) -> None:
    adapter = build(tmp_path / "adapter", base, **ADAPTERS[method])
    write_gguf(adapter, base, tmp_path / "adapter.gguf", "v1")
    reader = GGUFReader(tmp_path / "adapter.gguf")
    told = {name: field.contents() for name, field in reader.fields.items()}
    config = json.loads((base / "config.json").read_text())
    architecture = ARCHITECTURES[config["model_type"]].name
    assert told["general.architecture"] == architecture
    assert (told["general.type"], told["adapter.type"]) == ("adapter", "lora")
    assert told["general.name"] == "v1"
    halves = {tensor.name: torch.tensor(np.array(tensor.data)) for tensor in reader.tensors}
    peft: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
    names = get_tensor_name_map(MODEL_ARCH[architecture.upper()], LAYERS)
    seen = 0
    for module, layer in peft.base_model.model.named_modules():
        if not hasattr(layer, "lora_A"):
            continue
        name = names.get_name(module)
        down, up = halves[f"{name}.weight.lora_a"], halves[f"{name}.weight.lora_b"]
        # As llama.cpp does: its scale is alpha over the rank that B has.
        delta = (told["adapter.lora.alpha"] / up.shape[1]) * (up @ down)
        if architecture == "llama" and name.endswith(("attn_q", "attn_k")):
            delta = torch.tensor(by_halves(delta.numpy(), name.endswith("attn_k")))
        assert torch.allclose(delta, layer.get_delta_weight("default"), atol=1e-6), module
        seen += 2
    assert seen == len(halves) == 2 * LAYERS * 7


def by_halves(rows: Any, key: bool) -> Any:
    """transformers' own way back from the rows of a GGUF to those of the Hub."""
    return LlamaTensorProcessor()._reverse_permute_weights(rows, HEADS, KV_HEADS if key else HEADS)


@pytest.mark.skipif(LLAMA is None, reason="make test-llama asks a real llama.cpp")
@pytest.mark.parametrize("method", ADAPTERS)
def test_llama_cpp_answers_as_peft_does(base: Path, tmp_path: Path, method: str) -> None:
    adapter = build(tmp_path / "adapter", base, **ADAPTERS[method])
    write_gguf(adapter, base, tmp_path / "adapter.gguf")
    write_base(tmp_path / "base.gguf", base)
    request = {
        "prompt": PROMPT,
        "n_predict": ANSWER,
        "temperature": 0,
        "n_probs": 1,
        "ignore_eos": False,
        "return_tokens": True,
        "cache_prompt": False,
    }
    asked = {
        "model": str(tmp_path / "base.gguf"),
        "adapters": [str(tmp_path / "adapter.gguf")],
        "requests": [{**request, "lora": [{"id": 0, "scale": scale}]} for scale in (1.0, 0.0)],
    }
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    done = subprocess.run(
        [f"{LLAMA}/bin/python", str(ROOT / "tests/deploy/llama.py"), str(tmp_path / "asked.json")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    with_it, without = json.loads(done.stdout.splitlines()[-1])
    model: Any = AutoModelForCausalLM.from_pretrained(base).eval()
    plain = greedy(model)
    trained = greedy(PeftModel.from_pretrained(model, str(adapter)).eval())
    assert trained[0] != plain[0]
    for answer, (tokens, logprobs) in ((with_it, trained), (without, plain)):
        assert answer["tokens"] == tokens
        # It tells no probability of a token that ends inside a character.
        told = [(each["id"], each["logprob"]) for each in answer["completion_probabilities"]]
        assert len(told) >= 3
        expected = iter(zip(tokens, logprobs, strict=True))
        for token, logprob in told:
            ours = next(ours for known, ours in expected if known == token)
            assert logprob == pytest.approx(ours, abs=1e-3)


def greedy(model: Any) -> tuple[list[int], list[float]]:
    """The likeliest answer of a fixed length, and its log-probabilities."""
    tokens, logprobs = list(PROMPT), []
    for _ in range(ANSWER):
        with torch.inference_mode():
            table = torch.log_softmax(model(torch.tensor([tokens])).logits[0, -1], dim=-1)
        tokens.append(int(table.argmax()))
        logprobs.append(float(table.max()))
    return tokens[len(PROMPT) :], logprobs


def write_base(file: Path, base: Path) -> None:
    """The base in float32, as llama.cpp's converter writes it."""
    config = json.loads((base / "config.json").read_text())
    architecture = ARCHITECTURES[config["model_type"]].name
    model = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    writer = GGUFWriter(file, architecture)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HIDDEN // HEADS)
    writer.add_value_length(HIDDEN // HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i < 3 else 1 for i in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = get_tensor_name_map(MODEL_ARCH[architecture.upper()], LAYERS)
    for name, tensor in AutoModelForCausalLM.from_pretrained(base).state_dict().items():
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        numbers = tensor.float()
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = HEADS if "q_proj" in name else KV_HEADS
            numbers = torch.cat([neighbours(head) for head in numbers.chunk(heads)])
        writer.add_tensor(found, numbers.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def neighbours(head: torch.Tensor) -> torch.Tensor:
    """The rows of one head, first and second half in turn."""
    half = len(head) // 2
    return head[[place for at in range(half) for place in (at, half + at)]]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"use_dora": True}, "DoRA learns a magnitude"),
        ({"peft_type": "IA3"}, "knows LoRA alone, and this is IA3"),
        ({"bias": "all"}, "no biases"),
        ({"rank_pattern": {"q_proj": 8}}, "ranks differ"),
    ],
)
def test_what_llama_cpp_cannot_compute_is_refused_and_leaves_nothing(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    base = build_base(tmp_path / "base")
    adapter = build_adapter(tmp_path / "adapter", base)
    change(adapter / "adapter_config.json", changes)
    with pytest.raises(ProjectError, match=why):
        write_gguf(adapter, base, tmp_path / "out.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_a_neighbour_of_the_file_stays_as_it_is(tmp_path: Path) -> None:
    base = build_base(tmp_path / "base")
    adapter = build_adapter(tmp_path / "adapter", base)
    (tmp_path / "out.gguf.tmp").write_text("somebody's own")
    write_gguf(adapter, base, tmp_path / "out.gguf")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["adapter", "base", "out.gguf", "out.gguf.tmp"]
    assert (tmp_path / "out.gguf.tmp").read_text() == "somebody's own"


def test_an_architecture_and_a_tensor_that_nobody_has_tried_are_refused(tmp_path: Path) -> None:
    base = build_base(tmp_path / "base")
    adapter = build_adapter(tmp_path / "adapter", base)
    # The adapter has one layer more than the base: its tensors have no name there.
    change(base / "config.json", {"num_hidden_layers": 1})
    with pytest.raises(ProjectError, match=r"no place for the tensor 'base_model\.model\.model"):
        write_gguf(adapter, base, tmp_path / "out.gguf")
    change(base / "config.json", {"model_type": "gpt2"})
    with pytest.raises(ProjectError, match="architecture 'gpt2'") as caught:
        write_gguf(adapter, base, tmp_path / "out.gguf")
    assert "qwen3" in caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def change(file: Path, changes: dict[str, Any]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
