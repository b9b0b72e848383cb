"""The encoder against transformers: the same states, pooled as sentence-transformers does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_bert import build_encoder
from trimtab.embed import encoder as module
from trimtab.embed.encoder import Encoder
from trimtab.errors import BaseError
from trimtab.flows.encoders import resolve
from trimtab.flows.watch import Silent
from trimtab.registry import encoders
from trimtab.text.inputs import InputFormat

TEXTS = ["the invoice is wrong", "a", "Invoices [SEP] zebra", "the the the the the the the the"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder(tmp_path_factory.mktemp("encoder"))


def reference(folder: Path, texts: list[str]) -> torch.Tensor:
    """Mean pooling and length one over transformers' own model and tokenizer, padded together
    (https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2)."""
    from transformers import AutoModel, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]"
    )
    given = tokenizer(texts, padding=True, truncation=False, return_tensors="pt")
    given["token_type_ids"] = torch.zeros_like(given["input_ids"])
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder).eval()(**given).last_hidden_state
    weight = given["attention_mask"].unsqueeze(-1).float()
    return torch.nn.functional.normalize((states * weight).sum(1) / weight.sum(1), dim=1)


def encoded(folder: Path, texts: list[str]) -> torch.Tensor:
    form = InputFormat(folder, 256)
    return torch.tensor(Encoder(folder).encode([form.of_text(text) for text in texts]))


def test_vectors_are_those_of_the_reference(folder: Path) -> None:
    torch.testing.assert_close(encoded(folder, TEXTS), reference(folder, TEXTS))


def test_batches_change_neither_vectors_nor_their_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = encoded(folder, TEXTS)
    monkeypatch.setattr(module, "BATCH_TOKENS", 1)
    torch.testing.assert_close(encoded(folder, TEXTS), together)


def test_another_pooling_is_refused(tmp_path: Path) -> None:
    folder = build_encoder(tmp_path / "cls")
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with pytest.raises(BaseError, match="pooling_mode_cls_token"):
        encoders.read(folder, "cls")
    (folder / "modules.json").unlink()
    with pytest.raises(BaseError, match=r"no modules\.json"):
        encoders.read(folder, "cls")


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("sentence_bert_config.json", {}, "max_seq_length is None"),
        ("sentence_bert_config.json", {"max_seq_length": [9]}, r"max_seq_length is \[9\]"),
        ("config.json", {"hidden_size": None}, "hidden_size is None"),
        ("config.json", {"hidden_size": 0}, "hidden_size is 0"),
        ("modules.json", 7, "not a list"),
    ],
)
def test_a_damaged_file_is_named_with_its_field(
    tmp_path: Path, file: str, content: Any, named: str
) -> None:
    damaged = build_encoder(tmp_path / "damaged") / file
    if file == "config.json":
        content = json.loads(damaged.read_text()) | content
    damaged.write_text(json.dumps(content))
    with pytest.raises(BaseError, match=named) as caught:
        encoders.read(tmp_path / "damaged", "damaged")
    assert file in caught.value.message
    assert caught.value.hint


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    folder = build_encoder(tmp_path / "relu")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    with pytest.raises(BaseError, match="hidden_act is 'relu'"):
        Encoder(folder)
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(BaseError, match="no encoder can be read"):
        Encoder(folder)


def test_identity_is_content(tmp_path: Path, folder: Path) -> None:
    same, other, shorter = (
        encoders.read(build_encoder(tmp_path / name, **options), name)  # type: ignore[arg-type]
        for name, options in (("same", {}), ("other", {"seed": 1}), ("short", {"max_tokens": 9}))
    )
    here = encoders.read(folder, "here")
    assert here.hash == same.hash
    assert len({here.hash, other.hash, shorter.hash}) == 3
    assert (here.dimensions, here.max_tokens) == (32, 24)


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(BaseError, match="no encoder 'all-minilm-l6'") as caught:
        resolve("all-minilm-l6", Silent())
    assert "all-minilm-l6-v2" in caught.value.hint


@pytest.fixture(scope="module")
def minilm() -> encoders.Encoder:
    try:
        return resolve("all-minilm-l6-v2", Silent())
    except BaseError as error:
        pytest.skip(f"the encoder cannot be pulled here: {error.message}")


def test_minilm_from_its_wheel_is_what_it_is_known_as(minilm: encoders.Encoder) -> None:
    texts = [
        "My invoice is wrong.",
        "The bill has an error",
        "Zebras graze in Kenya",
        "Größe, 你好",
    ]
    found = encoded(minilm.folder, texts)
    torch.testing.assert_close(found, reference(minilm.folder, texts), atol=2e-6, rtol=1e-5)
    near, far = float(found[0] @ found[1]), float(found[0] @ found[2])
    assert near > 2 * max(far, 0.0)
    assert (minilm.dimensions, minilm.max_tokens) == (384, 256)
    assert minilm.hash == "d1b2c6be654e96847184f361d8872ab678ff47f855a55b2de4b38811671e691a"
