"""The quickstarts' configuration, value by value, as TRL and PEFT get it; and their scripts."""

import dataclasses
import json
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny import build_base
from trimtab.flows.settings import settings_of
from trimtab.project import HubSource, Project
from trimtab.text.chat import ChatFormat
from trimtab.text.template import source_of
from trimtab.train.lesson import lessons_of
from trimtab.train.preflight import preflight
from trimtab.train.prepare import Prepared, prepare

EXAMPLES = Path(__file__).parent.parent / "examples"
RECORDS = EXAMPLES / "quickstart-lora" / "records.json"
BOTH = ("lora", "qlora")


def quickstart(name: str) -> Project:
    return Project.load(EXAMPLES / f"quickstart-{name}")


def ready(name: str, base: Path) -> Prepared:
    """A small base in the place of the Hub's, and all else as the file says."""
    project = quickstart(name)
    assert project.data.template is not None
    chat = ChatFormat.from_folder(base, source=source_of(project.data.template, project.root))
    rows = json.loads(RECORDS.read_text())
    dialogues = [
        chat.messages_of(f"{row['instruction']}\n\n{row['input']}".strip()) for row in rows
    ]
    answered = [
        (*asked, type(asked[0])("assistant", row["output"]))
        for asked, row in zip(dialogues, rows, strict=True)
    ]
    settings = settings_of(project)
    checked = preflight(chat, lessons_of(answered), settings.max_length)
    return prepare(base, settings, checked)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.mark.parametrize("name", BOTH)
def test_base_and_data(name: str) -> None:
    project = quickstart(name)
    assert project.base == "mistralai/Mistral-7B-v0.1"
    [source] = project.data.sources
    assert isinstance(source, HubSource)
    assert (source.hub, source.split) == ("tatsu-lab/alpaca", "train[:1%]")


@pytest.mark.parametrize("name", BOTH)
def test_the_run(name: str, base: Path, tmp_path: Path) -> None:
    from trimtab.train.model import quiet
    from trimtab.train.trainer import arguments, tokenizer_of

    found = ready(name, base)
    bf16 = dataclasses.replace(found.machine, dtype="bfloat16")
    with quiet():
        given: Any = arguments(found, tmp_path)
        assert arguments(dataclasses.replace(found, machine=bf16), tmp_path).bf16
    assert given.per_device_train_batch_size == 2
    assert given.gradient_accumulation_steps == 8
    assert given.learning_rate == 2e-4
    assert given.lr_scheduler_type == "cosine"
    assert given.save_steps == 100
    # Each step is logged, the tenth too: the script prints that one.
    assert given.logging_steps == 1
    assert (found.settings.epochs, found.settings.max_length) == (1, 1024)
    assert found.settings.packing
    assert given.bf16 == (found.machine.dtype == "bfloat16")
    assert tokenizer_of(found).is_fast
    assert tokenizer_of(found).pad_token == tokenizer_of(found).eos_token


@pytest.mark.parametrize("name", BOTH)
def test_the_adapter(name: str, base: Path) -> None:
    from peft import PeftModel

    model = ready(name, base).attached.model
    assert isinstance(model, PeftModel)
    config: Any = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (16, 32, 0.05)
    attention = {"q_proj", "k_proj", "v_proj", "o_proj"}
    mlp = {"gate_proj", "up_proj", "down_proj"} if name == "qlora" else set()
    assert {target.rpartition(".")[2] for target in config.target_modules} == attention | mlp


def test_the_base_of_qlora_lies_in_four_bits(base: Path) -> None:
    model = ready("qlora", base).attached.model
    told = model.config.quantization_config
    assert told.load_in_4bit
    assert told.bnb_4bit_quant_type == "nf4"
    assert told.bnb_4bit_use_double_quant


@pytest.mark.parametrize("name", BOTH)
def test_eos_is_learnt_though_it_pads(name: str, base: Path) -> None:
    found = ready(name, base)
    eos = json.loads((base / "config.json").read_text())["eos_token_id"]
    assert all(row.completion[-1] == eos for row in found.checked.examples)


def test_the_scripts_differ_in_their_names_alone() -> None:
    one, other = (
        (EXAMPLES / f"quickstart-{name}" / "quickstart.py").read_text().replace("-qlora", "-lora")
        for name in BOTH
    )
    assert one == other


def test_the_script_runs_where_there_is_no_hub(base: Path, tmp_path: Path) -> None:
    """On a small base and records in Alpaca's layout."""
    content = yaml.safe_load((EXAMPLES / "quickstart-qlora" / "trimtab.yaml").read_text())
    content |= {"base": str(base)}
    content["data"] |= {"sources": [{"path": str(RECORDS)}]}
    # Packed, so few records would make too few steps.
    content["train"] |= {"epochs": 5, "packing": False}
    (tmp_path / "trimtab.yaml").write_text(yaml.safe_dump(content))
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "quickstart-qlora" / "quickstart.py"), str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "out/lora_adapter: loss" in done.stdout, done.stderr
    assert "step 10 of" in done.stdout
    folder = tmp_path / "out" / "lora_adapter"
    left = {path.name for path in folder.iterdir()}
    assert left == {"adapter_config.json", "adapter_model.safetensors"}
    assert json.loads((folder / "adapter_config.json").read_bytes())["peft_type"] == "LORA"


def test_the_guide_maps_what_trl_renamed_or_dropped() -> None:
    from trl import SFTConfig, SFTTrainer

    taken = {*signature(SFTConfig).parameters, *signature(SFTTrainer).parameters}
    page = (EXAMPLES.parent / "docs" / "guides" / "quickstart.md").read_text()
    for old, new in (
        ("max_seq_length", "max_length"),
        ("tokenizer", "processing_class"),
        ("warmup_ratio", "warmup_steps"),
    ):
        assert (old in taken, new in taken) == (False, True)
        [row] = [line for line in page.splitlines() if line.startswith(f"| `{old}` |")]
        assert row.endswith(f"`{new}` |")
