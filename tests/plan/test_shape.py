import shutil
import struct
from pathlib import Path

import pytest

from trimtab.errors import BaseError, ProjectError
from trimtab.plan.shape import ModelShape, matches, read_shape


def test_sizes_are_those_of_the_model(base: Path, shape: ModelShape) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert (shape.layers, shape.hidden, shape.intermediate) == (2, 64, 128)
    assert shape.key_values == model.config.num_key_value_heads * model.config.head_dim
    assert len(shape.linears) == 2 * 7


@pytest.mark.parametrize(
    "targets", ["all-linear", ["q_proj", "v_proj"], r"model\.layers\.1\..*_proj", ["mlp.up_proj"]]
)
def test_adapter_sizes_are_those_of_peft(
    base: Path, shape: ModelShape, targets: str | list[str]
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert shape.lora_parameters(targets, 4) == trained > 0


def test_a_target_is_a_whole_name_or_its_end() -> None:
    assert matches("model.layers.0.self_attn.q_proj", ["q_proj"])
    assert not matches("model.layers.0.self_attn.q_proj", ["proj"])
    assert not matches("model.layers.0.self_attn.q_proj", "q_proj")


@pytest.mark.parametrize(
    ("targets", "message"), [("[", "no regular expression"), (["nobody"], "names no layer")]
)
def test_targets_that_train_nothing_are_refused(
    shape: ModelShape, targets: str | list[str], message: str
) -> None:
    with pytest.raises(ProjectError, match=message) as caught:
        shape.lora_parameters(targets, 4)
    assert "all-linear" in caught.value.hint


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=r"config\.json: no such file"):
        read_shape(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BaseError, match="no safetensors weights"):
        read_shape(tmp_path)


def test_weights_without_layers_are_refused(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_text("{}")
    save_file({"embed.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(BaseError, match="no layer weights"):
        read_shape(tmp_path)


@pytest.mark.parametrize("raw", [b"", b"\xff" * 8, struct.pack("<Q", 9) + b"{torn"])
def test_torn_weights_are_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(BaseError, match=r"model\.safetensors"):
        read_shape(tmp_path)


def test_files_that_no_loader_reads_do_not_count(base: Path, tmp_path: Path) -> None:
    """A folder of the Hub may hold the same weights twice, whole and in another format's name."""
    twice = shutil.copytree(base, tmp_path / "twice")
    shutil.copyfile(twice / "model.safetensors", twice / "consolidated.safetensors")
    assert read_shape(twice) == read_shape(base)
