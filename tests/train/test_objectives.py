"""Each objective against plain TRL on the same rows: the same losses, step by step."""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import pytest
from datasets import Dataset

from tests.train.conftest import Records, small_settings
from trimtab.data.record import Needs as DataNeeds
from trimtab.errors import DataError, ProjectError, UserError
from trimtab.inference import Message
from trimtab.project import Train
from trimtab.text.chat import ChatFormat
from trimtab.train.lesson import Lesson
from trimtab.train.objectives import OBJECTIVES, Needs, objective_of
from trimtab.train.preflight import preflight
from trimtab.train.prepare import Prepared, prepare
from trimtab.train.rows import Answers
from trimtab.train.run import RunResult
from trimtab.train.settings import TrainSettings
from trimtab.train.start import train


def settings_of(objective: str, **changes: Any) -> TrainSettings:
    return dataclasses.replace(small_settings(), objective=objective, **changes)


def curve(result: RunResult) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(result.files.curve.read_bytes())
    return found


def prepared(base: Path, chat: ChatFormat, records: Records, settings: TrainSettings) -> Prepared:
    checked = preflight(chat, records, settings.max_length, objective_of(settings.objective))
    return prepare(base, settings, checked)


def plain_losses(trainer: Any) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def plain_arguments(folder: Path, settings: TrainSettings, **more: Any) -> dict[str, Any]:
    """What a stranger would set for the same run."""
    return {
        "output_dir": str(folder),
        "learning_rate": settings.rate,
        "num_train_epochs": 1,
        "per_device_train_batch_size": settings.batch_size,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "gradient_checkpointing": False,
        "seed": settings.seed,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        **more,
    }


def texts(ready: Prepared, chat: ChatFormat) -> list[dict[str, str]]:
    """The rows in their order, as texts that plain TRL turns into the same tokens."""
    rows = [row for row in ready.laid_out if isinstance(row, Answers)]

    def text(tokens: tuple[int, ...]) -> str:
        return chat.tokenizer.decode(tokens, keep_special=True)

    return [
        {
            "prompt": text(row.prompt),
            "chosen": text(row.completions[0]),
            "rejected": text(row.completions[-1]),
        }
        for row in rows
    ]


@pytest.fixture(scope="module")
def dpo(
    base: Path, chat: ChatFormat, records: Records, tmp_path_factory: pytest.TempPathFactory
) -> RunResult:
    return train(base, chat, records, settings_of("dpo"), tmp_path_factory.mktemp("dpo"))


def test_dpo_is_that_of_plain_trl(
    dpo: RunResult, base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    from trl import DPOConfig, DPOTrainer

    from trimtab.train.model import quiet
    from trimtab.train.trainer import tokenizer_of

    ready = prepared(base, chat, records, settings_of("dpo"))
    with quiet():
        trainer = DPOTrainer(
            model=ready.attached.model,
            args=DPOConfig(**plain_arguments(tmp_path, ready.settings, max_length=None)),
            train_dataset=Dataset.from_list(texts(ready, chat)),
            processing_class=tokenizer_of(ready),
        )
        theirs = plain_losses(trainer)
    ours = [point["loss"] for point in curve(dpo)]
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert ours[0] == pytest.approx(0.6931, abs=1e-3)


def test_dpo_raises_the_margin(dpo: RunResult) -> None:
    margins = [point["metrics"]["rewards/margins"] for point in curve(dpo)]
    assert margins[0] == pytest.approx(0, abs=1e-6)
    assert margins[-1] > 0.05


def test_no_copy_of_the_adapter_is_left(dpo: RunResult) -> None:
    from safetensors.torch import load_file

    names = load_file(dpo.files.adapter / "adapter_model.safetensors")
    assert names
    assert not [name for name in names if "ref" in name]
    assert [path.name for path in dpo.files.adapter.iterdir() if path.is_dir()] == []


def test_the_reference_of_full_fine_tuning_is_the_base(
    dpo: RunResult, base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    full = train(
        base, chat, records, settings_of("dpo", method="full", learning_rate=1e-3), tmp_path
    )
    assert curve(full)[0]["loss"] == pytest.approx(curve(dpo)[0]["loss"], abs=1e-4)
    assert curve(full)[-1]["metrics"]["rewards/margins"] > 0.05


@pytest.mark.parametrize("loss", ["ipo", "hinge", "apo_zero"])
def test_the_losses_of_dpo_are_chosen_by_name(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path, loss: str
) -> None:
    changed = settings_of("dpo", extra={"loss_type": [loss]}, epochs=0.2)
    assert curve(train(base, chat, records, changed, tmp_path))


def test_a_prompt_that_fills_the_length_is_dropped_by_name(
    chat: ChatFormat, records: Records
) -> None:
    long = Lesson((Message("user", "why " * 80), Message("assistant", "so")), rejected="no")
    checked = preflight(chat, [*records, long], 150, OBJECTIVES["dpo"])
    assert [d.record for d in checked.dropped] == [len(records)]
    assert "no token of an answer is left" in checked.dropped[0].reason


def test_a_record_without_two_answers_is_named(chat: ChatFormat, records: Records) -> None:
    one = Lesson((Message("user", "why?"), Message("assistant", "so")))
    with pytest.raises(DataError, match="training record 24: has no rejected answer"):
        preflight(chat, [*records, one], 512, OBJECTIVES["dpo"])
    same = dataclasses.replace(one, rejected="so")
    with pytest.raises(DataError, match="chosen and rejected are the same"):
        preflight(chat, [same], 512, OBJECTIVES["dpo"])


def test_a_metric_that_is_no_number_stops_the_run_with_its_records() -> None:
    from transformers import TrainerState

    from trimtab.train.watch import Watch

    row = Answers(9, (1, 2), ((3,), (4,)))
    watch = Watch([[row]], spent=0, deadline_s=None, on_step=None, watched=("rewards/margins",))
    state = TrainerState(global_step=1, max_steps=1)
    logs = {"loss": 0.0, "rewards/margins": float("nan")}
    with pytest.raises(UserError, match=r"rewards/margins is nan on training records \[9\]"):
        watch.on_log(None, state, None, logs=logs)  # type: ignore[arg-type]


def test_the_project_file_knows_the_same_objectives() -> None:
    assert set(get_args(Train.model_fields["objective"].annotation)) == set(OBJECTIVES)
    assert get_args(Needs) == get_args(DataNeeds)


def test_an_unknown_objective_lists_the_known() -> None:
    with pytest.raises(ProjectError, match="no objective 'dop'") as caught:
        objective_of("dop")
    assert "dpo" in caught.value.hint
