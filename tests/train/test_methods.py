"""Each method: what it leaves is what a plain PEFT or transformers loads, and only that changed."""

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.train.conftest import Records
from tests.train.plain import plain_arguments, plain_losses
from trimtab import bottleneck
from trimtab.engine.local import LocalEngine
from trimtab.errors import ProjectError
from trimtab.inference import ScoreRequest, VersionFiles
from trimtab.project import Train
from trimtab.text.chat import ChatFormat
from trimtab.train import pairing
from trimtab.train.methods import METHODS, method_of
from trimtab.train.pairing import why_not
from trimtab.train.probes import Probes
from trimtab.train.run import RunFolder, RunResult, StepProgress
from trimtab.train.settings import TrainSettings
from trimtab.train.start import train

# One that moves every method.
RATE = 0.02


@pytest.fixture(scope="module")
def runs(
    base: Path, chat: ChatFormat, records: Records, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, RunResult]:
    """Six steps by every method."""
    folder = tmp_path_factory.mktemp("methods")
    settings = TrainSettings(rank=4, alpha=8, batch_size=4, learning_rate=RATE)
    return {
        name: train(base, chat, records, dataclasses.replace(settings, method=name), folder / name)
        for name in METHODS
    }


@pytest.fixture(scope="module")
def engine(base: Path) -> Iterator[LocalEngine]:
    found = LocalEngine(base, torch.float32, torch.device("cpu"))
    yield found
    found.close()


def plain(base: Path, run: RunResult, method: str) -> Any:
    """The result as a stranger loads it."""
    from peft import PeftModel

    if not METHODS[method].frozen:
        return AutoModelForCausalLM.from_pretrained(run.files.model, dtype=torch.float32).eval()
    under = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if method == "bottleneck":
        bottleneck.load(under, run.files.adapter)
        return under.eval()
    return PeftModel.from_pretrained(under, str(run.files.adapter)).eval()


@pytest.mark.parametrize("method", METHODS)
def test_a_stranger_reproduces_the_probes(
    runs: dict[str, RunResult], base: Path, method: str
) -> None:
    model, probes = plain(base, runs[method], method), Probes.load(runs[method].files.probes)
    for probe in probes.probes[:6]:
        tokens = torch.tensor([probe.prompt + probe.completion])
        with torch.inference_mode():
            logits = model(input_ids=tokens).logits[0, -tokens.shape[1] :]
        table = torch.log_softmax(logits[len(probe.prompt) - 1 : -1], dim=-1)
        found = table.gather(1, torch.tensor(probe.completion)[:, None])[:, 0]
        assert float((found - torch.tensor(probe.logprobs)).abs().max()) <= probes.tolerance


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].frozen])
def test_the_serving_engine_reproduces_the_probes_and_its_merged_copy_does(
    runs: dict[str, RunResult], engine: LocalEngine, base: Path, method: str
) -> None:
    probes = Probes.load(runs[method].files.probes)

    async def differences(merged: bool) -> list[float]:
        files = VersionFiles(method, base, runs[method].files.adapter, base, (2,), merged)
        await engine.load(files)
        found = []
        for at, probe in enumerate(probes.probes[:3]):
            request = ScoreRequest(method, probe.prompt, (probe.completion,), str(at))
            [score] = await engine.score(request)
            found += [abs(a - b) for a, b in zip(score.logprobs, probe.logprobs, strict=True)]
        await engine.unload(method)
        return found

    assert max(asyncio.run(differences(merged=False))) <= probes.tolerance
    assert max(asyncio.run(differences(merged=True))) <= probes.tolerance


@pytest.mark.parametrize("method", METHODS)
def test_it_learns(runs: dict[str, RunResult], method: str) -> None:
    curve = json.loads(runs[method].files.curve.read_bytes())
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert 0 < runs[method].trainable <= runs[method].total
    assert runs[method].files.samples.is_file()


@pytest.mark.parametrize("method", METHODS)
def test_sft_by_it_is_that_of_plain_trl(
    runs: dict[str, RunResult],
    base: Path,
    chat: ChatFormat,
    records: Records,
    settings: TrainSettings,
    tmp_path: Path,
    method: str,
) -> None:
    """The same losses, step by step; of a bottleneck too, which TRL finds on the model."""
    from trl import SFTConfig, SFTTrainer

    from trimtab.train.model import quiet
    from trimtab.train.preflight import preflight
    from trimtab.train.prepare import prepare
    from trimtab.train.trainer import tokenizer_of

    asked = dataclasses.replace(settings, method=method, learning_rate=RATE)
    ready = prepare(base, asked, preflight(chat, records, asked.max_length))
    with quiet():
        trainer = SFTTrainer(
            model=ready.attached.model,
            args=SFTConfig(**plain_arguments(tmp_path, asked, max_length=None)),
            train_dataset=Dataset.from_list([labelled(row) for row in ready.laid_out]),
            processing_class=tokenizer_of(ready),
        )
        theirs = plain_losses(trainer)
    ours = [point["loss"] for point in json.loads(runs[method].files.curve.read_bytes())]
    assert len(ours) == 6
    # In 4 bits the products are summed in another order, which Adam's first steps magnify.
    assert ours == pytest.approx(theirs, abs=2e-3 if METHODS[method].quantised else 1e-4)


def labelled(row: Any) -> dict[str, list[int]]:
    labels = [token if taught else -100 for token, taught in zip(row.tokens, row.mask, strict=True)]
    return {"input_ids": list(row.tokens), "labels": labels}


def test_all_methods_but_virtual_tokens_begin_at_the_base(runs: dict[str, RunResult]) -> None:
    """A fresh adapter changes nothing, so every first loss is the same."""
    firsts = [
        json.loads(run.files.curve.read_bytes())[0]["loss"]
        for name, run in runs.items()
        if METHODS[name].in_layers and not METHODS[name].quantised
    ]
    assert max(firsts) - min(firsts) < 1e-4, firsts


def test_the_config_says_which_kin_of_lora_it_is(runs: dict[str, RunResult]) -> None:
    told = {
        name: json.loads((run.files.adapter / "adapter_config.json").read_bytes())
        for name, run in runs.items()
        if METHODS[name].targeted
    }
    assert (told["rslora"]["use_rslora"], told["lora"]["use_rslora"]) == (True, False)
    assert (told["dora"]["use_dora"], told["lora"]["use_dora"]) == (True, False)


def test_full_fine_tuning_leaves_a_base_that_is_another(
    runs: dict[str, RunResult], base: Path
) -> None:
    model = runs["full"].files.model
    assert not runs["full"].files.adapter.exists()
    assert (model / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    before, after = (load_file(folder / "model.safetensors") for folder in (base, model))
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert runs["full"].trainable == runs["full"].total


def test_the_probes_tell_how_far_four_bits_are_from_what_is_served(
    runs: dict[str, RunResult],
) -> None:
    told = {name: Probes.load(run.files.probes).narrowed for name, run in runs.items()}
    assert told["qlora"] > 1e-3
    assert {value for name, value in told.items() if name != "qlora"} == {0}


def test_qlora_folded_into_the_dequantised_base_is_qlora(
    runs: dict[str, RunResult], base: Path
) -> None:
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit
    from peft import PeftModel

    from trimtab.train.model import load
    from trimtab.train.speed import Device

    adapter = str(runs["qlora"].files.adapter)
    narrow = load(base, Device("cpu", "float32"), METHODS["qlora"])
    widened: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    matrices = {n: m for n, m in narrow.named_modules() if isinstance(m, Linear4bit)}
    assert len(matrices) == 2 * 7
    for name, matrix in matrices.items():
        state = matrix.weight.quant_state
        assert (state.quant_type, state.nested) == ("nf4", True)
        widened.get_submodule(name).weight.data = dequantize_4bit(matrix.weight.data, state)
    unmerged = PeftModel.from_pretrained(narrow, adapter).eval()
    merged: Any = PeftModel.from_pretrained(widened, adapter).merge_and_unload().eval()
    probe = Probes.load(runs["qlora"].files.probes).probes[0]
    tokens = torch.tensor([probe.prompt + probe.completion])
    with torch.inference_mode():
        ones, others = unmerged(input_ids=tokens).logits, merged(input_ids=tokens).logits
    assert float((ones - others).abs().max()) < 1e-4


def test_a_matrix_in_four_bits_that_changed_is_noticed(base: Path) -> None:
    from trimtab.errors import IdentityError
    from trimtab.train.model import attach
    from trimtab.train.speed import Device

    attached = attach(base, TrainSettings(method="qlora", rank=4), Device("cpu", "float32"))
    attached.must_still_be(attached.base_fingerprint)
    scales: Any = next(
        p.quant_state.absmax for p in attached.model.parameters() if hasattr(p, "quant_state")
    )
    scales[0] += 1
    with pytest.raises(IdentityError, match="changed weights of the base"):
        attached.must_still_be(attached.base_fingerprint)


def test_a_weight_of_the_base_that_changed_is_noticed_and_one_that_is_trained_is_not(
    base: Path,
) -> None:
    from trimtab.errors import IdentityError
    from trimtab.train.model import attach
    from trimtab.train.speed import Device

    attached = attach(base, TrainSettings(rank=4), Device("cpu", "float32"))
    weights = dict(attached.model.named_parameters())
    with torch.no_grad():
        next(each for name, each in weights.items() if "lora_B" in name).add_(1)
        attached.must_still_be(attached.base_fingerprint)
        norm = next(each for name, each in weights.items() if name.endswith("norm.weight"))
        norm[0] = torch.nextafter(norm[0], torch.tensor(torch.inf))
    with pytest.raises(IdentityError, match="changed weights of the base"):
        attached.must_still_be(attached.base_fingerprint)


def test_the_moments_of_qlora_are_paged_where_there_is_a_gpu(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    from trimtab.train.model import quiet
    from trimtab.train.preflight import preflight
    from trimtab.train.prepare import prepare
    from trimtab.train.speed import Device
    from trimtab.train.trainer import arguments

    def optimizer(method: str, machine: str) -> str:
        settings = TrainSettings(method=method, rank=4, batch_size=4)
        ready = prepare(base, settings, preflight(chat, records, 512))
        there = dataclasses.replace(ready, machine=Device(machine, "float32"))
        with quiet():
            found: str = arguments(there, tmp_path).optim
        return found

    assert optimizer("qlora", "cuda") == "paged_adamw_32bit"
    assert not optimizer("qlora", "cpu").startswith("paged")
    assert not optimizer("lora", "cuda").startswith("paged")


def test_qlora_is_closed_where_bitsandbytes_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not("sft", "qlora") == ""
    monkeypatch.setattr(pairing, "find_spec", lambda name: None)
    assert "pip install 'trimtab[qlora]'" in why_not("sft", "qlora")
    assert why_not("sft", "lora") == ""


def test_named_modules_alone_are_trained(
    base: Path, chat: ChatFormat, records: Records, settings: TrainSettings, tmp_path: Path
) -> None:
    named = dataclasses.replace(settings, targets=("q_proj", "v_proj"), epochs=0.2)
    result = train(base, chat, records, named, tmp_path)
    assert result.modules == 2 * 2
    tensors = load_file(result.files.adapter / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in tensors} == {"q_proj", "v_proj"}


def test_bottlenecks_are_saved_without_the_base_and_go_on_from_there(
    runs: dict[str, RunResult], base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    settings = TrainSettings(
        method="bottleneck", rank=4, batch_size=4, learning_rate=0.02, extra={"save_steps": 2}
    )
    seen: list[int] = []

    def stop(progress: StepProgress) -> None:
        seen.append(progress.step)
        if seen == [1, 2, 3]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(base, chat, records, settings, tmp_path, on_step=stop)
    saved = RunFolder(tmp_path).checkpoints / "checkpoint-2"
    assert not list(saved.glob("model*"))
    result = train(base, chat, records, settings, tmp_path, on_step=stop)
    assert seen == [1, 2, 3, 3, 4, 5, 6]
    ours, whole = (
        (run.files.adapter / "adapter_model.safetensors").read_bytes()
        for run in (result, runs["bottleneck"])
    )
    assert ours == whole


def test_a_method_sets_its_own_pace() -> None:
    rates = {name: TrainSettings(method=name).rate for name in METHODS}
    assert rates["lora"] == 2e-4
    assert rates["ia3"] == pytest.approx(3e-3)
    assert rates["full"] == pytest.approx(2e-5)


def test_the_project_file_knows_the_same_methods() -> None:
    assert set(get_args(Train.model_fields["method"].annotation)) == set(METHODS)


def test_an_unknown_method_lists_the_known() -> None:
    with pytest.raises(ProjectError, match="no method 'lore'") as caught:
        method_of("lore")
    assert "rslora" in caught.value.hint


@pytest.mark.parametrize("method", METHODS)
def test_the_plan_counts_what_is_trained(
    runs: dict[str, RunResult], base: Path, method: str
) -> None:
    from trimtab.plan.memory import trained_parameters
    from trimtab.plan.shape import read_shape
    from trimtab.plan.work import Work

    work = Work(24, 2000, 500, 90, 20, 1, 4, 1, 4, "all-linear")
    assert trained_parameters(read_shape(base), work, method) == runs[method].trainable
