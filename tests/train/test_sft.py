"""Whole runs on a tiny base: what they leave, and what stops them."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.tiny import build_base
from tests.train.conftest import Records
from trimtab.errors import BaseError, InUse, ProjectError, RunFailed, UserError
from trimtab.text.chat import ChatFormat
from trimtab.train import room
from trimtab.train.checkpoint import newest
from trimtab.train.probes import Probes
from trimtab.train.run import RunFolder, RunResult, StepProgress
from trimtab.train.settings import TrainSettings
from trimtab.train.start import train
from trimtab.train.watch import divergence


@pytest.fixture(scope="module")
def finished(
    base: Path, chat: ChatFormat, records: Records, tmp_path_factory: pytest.TempPathFactory
) -> RunResult:
    """Ten epochs, enough to learn two dozen answers by heart."""
    settings = TrainSettings(rank=8, batch_size=4, learning_rate=0.02, epochs=10)
    return train(base, chat, records, settings, tmp_path_factory.mktemp("runs") / "one")


def test_it_leaves_an_adapter_and_its_proofs(finished: RunResult) -> None:
    left = sorted(str(p.relative_to(finished.folder)) for p in finished.folder.rglob("*"))
    assert left == [
        ".lock",
        "adapter",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "live.html",
        "loss.json",
        "loss.svg",
        "preflight.json",
        "probes.json",
        "run.json",
        "samples.json",
        "settings.json",
        "used.json",
    ]


def test_the_loss_falls(finished: RunResult) -> None:
    curve = json.loads(finished.files.curve.read_bytes())
    assert [point["step"] for point in curve] == list(range(1, 61))
    assert finished.loss < curve[0]["loss"] / 4


def test_the_adapter_is_attached_everywhere(finished: RunResult) -> None:
    assert finished.modules == 2 * 7
    assert 0 < finished.trainable < finished.total
    assert finished.trainable_share == finished.trainable / finished.total
    assert (finished.steps, finished.planned_steps, finished.stopped) == (60, 60, "")


def test_its_page_tells_the_whole_run(finished: RunResult) -> None:
    page = finished.files.live.read_text()
    assert "step 60 of 60" in page
    assert 'http-equiv="refresh"' not in page
    assert page.count("<svg") == 5
    samples = json.loads(finished.files.samples.read_bytes())
    assert len(samples) == 3
    for _, gold, answers in samples:
        assert answers[-1][0] == 60
        # Half learnt by heart: what it says begins as its record does.
        assert gold[:12] == answers[-1][1][:12] == '{"product": '


def test_no_path_of_this_machine_is_left_in_the_adapter(finished: RunResult, base: Path) -> None:
    config = json.loads((finished.files.adapter / "adapter_config.json").read_bytes())
    assert config["base_model_name_or_path"] == base.name


def test_plain_peft_reproduces_the_probes(finished: RunResult, base: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, str(finished.files.adapter)).eval()
    probes = Probes.load(finished.files.probes)
    assert len(probes.probes) == 24
    assert probes.spread <= probes.tolerance
    for probe in probes.probes:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([probe.prompt + probe.completion])).logits[0]
        table = torch.log_softmax(logits[len(probe.prompt) - 1 : -1], dim=-1)
        found = table.gather(1, torch.tensor(probe.completion)[:, None])[:, 0]
        assert float((found - torch.tensor(probe.logprobs)).abs().max()) <= probes.tolerance


def test_a_run_that_is_done_is_not_made_again(
    finished: RunResult, base: Path, chat: ChatFormat, records: Records
) -> None:
    settings = TrainSettings(rank=8, batch_size=4, learning_rate=0.02, epochs=10)
    seen: list[StepProgress] = []
    again = train(base, chat, records, settings, finished.folder, on_step=seen.append)
    assert again == finished
    assert seen == []


def test_a_folder_of_another_run_is_refused(
    finished: RunResult, base: Path, chat: ChatFormat, records: Records
) -> None:
    with pytest.raises(UserError, match="holds run") as caught:
        train(base, chat, records, TrainSettings(rank=8), finished.folder)
    assert "folder of its own" in caught.value.hint


def test_it_reports_each_step_and_prints_nothing(
    base: Path,
    chat: ChatFormat,
    records: Records,
    settings: TrainSettings,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    seen: list[StepProgress] = []
    train(base, chat, records, settings, tmp_path, on_step=seen.append)
    assert [progress.step for progress in seen] == [1, 2, 3, 4, 5, 6]
    assert all(progress.steps == 6 and progress.tokens_s > 0 for progress in seen)
    assert capfd.readouterr() == ("", "")


def test_accumulated_batches_are_one_step(
    base: Path, chat: ChatFormat, records: Records, settings: TrainSettings, tmp_path: Path
) -> None:
    halves = dataclasses.replace(settings, batch_size=4, accumulation=2)
    result = train(base, chat, records, halves, tmp_path)
    assert (result.steps, result.planned_steps) == (3, 3)
    first = json.loads(result.files.curve.read_bytes())[0]["loss"]
    # A fresh adapter answers as the base does, so one batch of eight has the same loss.
    whole = dataclasses.replace(settings, batch_size=24)
    other = train(base, chat, records, whole, tmp_path / "whole")
    assert first == pytest.approx(json.loads(other.files.curve.read_bytes())[0]["loss"], rel=0.1)


def test_packed_records_are_learnt_as_if_each_stood_alone(
    base: Path, chat: ChatFormat, records: Records, settings: TrainSettings, tmp_path: Path
) -> None:
    packed = dataclasses.replace(settings, packing=True, max_length=200, batch_size=12)
    result = train(base, chat, records, packed, tmp_path / "packed")
    assert result.planned_steps == 1
    alone = dataclasses.replace(settings, batch_size=24)
    other = train(base, chat, records, alone, tmp_path / "alone")
    (point,) = json.loads(result.files.curve.read_bytes())
    (plain,) = json.loads(other.files.curve.read_bytes())
    assert point["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    assert point["gradient_norm"] == pytest.approx(plain["gradient_norm"], rel=1e-4)


def test_packed_records_are_apart_where_transformers_computes_them_too(
    base: Path, chat: ChatFormat, records: Records, settings: TrainSettings, tmp_path: Path
) -> None:
    packed = dataclasses.replace(
        settings, packing=True, max_length=200, batch_size=12, method="prompt", learning_rate=0.01
    )
    alone = dataclasses.replace(packed, packing=False, batch_size=24)
    results = [
        train(base, chat, records, asked, tmp_path / name)
        for name, asked in (("packed", packed), ("alone", alone))
    ]
    one, two = (json.loads(result.files.curve.read_bytes()) for result in results)
    assert one[0]["loss"] == pytest.approx(two[0]["loss"], rel=1e-5)


def test_a_batch_in_parts_is_the_same_step(
    base: Path,
    chat: ChatFormat,
    records: Records,
    settings: TrainSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = train(base, chat, records, settings, tmp_path / "whole")
    monkeypatch.setattr(room, "PART", 40)
    cut = train(base, chat, records, settings, tmp_path / "cut")
    one, two = (json.loads(result.files.curve.read_bytes()) for result in (whole, cut))
    assert [p["loss"] for p in one] == pytest.approx([p["loss"] for p in two], rel=1e-4)


def test_dropout_is_trained_with(
    base: Path, chat: ChatFormat, records: Records, settings: TrainSettings, tmp_path: Path
) -> None:
    result = train(base, chat, records, dataclasses.replace(settings, dropout=0.1), tmp_path)
    assert result.steps == 6


def test_the_deadline_ends_the_run_with_what_was_learned(
    base: Path, chat: ChatFormat, records: Records, settings: TrainSettings, tmp_path: Path
) -> None:
    hurried = dataclasses.replace(settings, deadline_s=1e-6)
    result = train(base, chat, records, hurried, tmp_path)
    assert (result.steps, result.stopped) == (1, "deadline")
    assert result.files.adapter.is_dir()


def test_its_money_ends_the_run_with_what_was_learned(
    base: Path, chat: ChatFormat, records: Records, settings: TrainSettings, tmp_path: Path
) -> None:
    dear = dataclasses.replace(settings, budget_usd=1, usd_hour=1e9)
    seen: list[StepProgress] = []
    result = train(base, chat, records, dear, tmp_path, on_step=seen.append)
    assert (result.steps, result.stopped) == (1, "budget")
    assert result.usd == pytest.approx(result.seconds / 3600 * 1e9, rel=1e-2)
    assert (seen[0].left_usd, seen[0].usd > 1) == (0.0, True)
    assert result.files.adapter.is_dir()


def test_a_model_that_cannot_be_asked_is_trained_all_the_same(
    base: Path,
    chat: ChatFormat,
    records: Records,
    settings: TrainSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from trimtab.train.display import samples

    def refuses(*_: object) -> list[str]:
        raise RuntimeError("no way to generate")

    monkeypatch.setattr(samples, "answers", refuses)
    result = train(base, chat, records, dataclasses.replace(settings, epochs=0.2), tmp_path)
    assert result.steps == 2
    assert "It could not be asked: RuntimeError: no way to" in result.files.live.read_text()


def test_a_value_that_the_library_refuses_is_no_fault_of_ours(
    base: Path, chat: ChatFormat, records: Records, settings: TrainSettings, tmp_path: Path
) -> None:
    wrong = dataclasses.replace(settings, extra={"optim": "sgdd"})
    with pytest.raises(ProjectError, match=r"train\.extra: sgdd is not a valid") as caught:
        train(base, chat, records, wrong, tmp_path)
    assert len(caught.value.message) < 250


def test_a_loss_that_runs_away_names_where_it_began(
    base: Path,
    chat: ChatFormat,
    records: Records,
    settings: TrainSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # By these bounds a loss that stays where it was has run away, at the third step that shows it.
    for name, value in {"FEWEST": 2, "TIMES": 0.5, "START_TIMES": 0.5}.items():
        monkeypatch.setattr(divergence, name, value)
    every = dataclasses.replace(settings, extra={"save_steps": 1})
    with pytest.raises(RunFailed, match=r"step 3: the loss runs away .* on training records \["):
        train(base, chat, records, every, tmp_path)
    last = newest(RunFolder(tmp_path).checkpoints)
    assert last is not None
    assert last.step == 4
    page = RunFolder(tmp_path).live.read_text()
    assert "failed" in page
    assert "step 3: the loss runs away" in page


def test_a_loss_that_is_not_finite_names_its_records(
    chat: ChatFormat, records: Records, settings: TrainSettings, tmp_path: Path
) -> None:
    broken = build_base(tmp_path / "broken", spread=1e20)
    with pytest.raises(RunFailed, match=r"step 1: (loss|grad norm) is nan on training records \["):
        train(broken, chat, records, settings, tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_targets_that_match_nothing_are_refused(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    with pytest.raises(ProjectError, match="no module of tiny matches"):
        train(base, chat, records, TrainSettings(targets=("c_attn",)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_model_is_refused(
    chat: ChatFormat, records: Records, settings: TrainSettings, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaseError, match="cannot be loaded"):
        train(tmp_path / "empty", chat, records, settings, tmp_path / "run")


def test_two_trainings_in_one_folder_are_refused(
    base: Path, chat: ChatFormat, records: Records, settings: TrainSettings, tmp_path: Path
) -> None:
    import filelock

    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(InUse, match="another process"):
        train(base, chat, records, settings, tmp_path)
