"""Each objective against plain TRL on the same rows: the same losses, step by step."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

import pytest
from datasets import Dataset

from tests.train.conftest import Records, small_settings
from tests.train.plain import (
    SHORT,
    curve,
    judged,
    plain_arguments,
    plain_losses,
    prepared,
    settings_of,
    texts,
)
from trimtab.data.record import Needs as DataNeeds
from trimtab.errors import DataError, ProjectError, UserError
from trimtab.inference import Message
from trimtab.project import Train
from trimtab.text.chat import ChatFormat
from trimtab.train.lesson import Lesson
from trimtab.train.objectives import OBJECTIVES, Needs, objective_of
from trimtab.train.online.rewards import Reward, Rollout, scores
from trimtab.train.preflight import preflight
from trimtab.train.rows import Answers
from trimtab.train.run import RunResult
from trimtab.train.start import train


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


# All that TRL knows beside the sigmoid: three alone, and the others as one sum with a weight each.
ALONE = ("ipo", "hinge", "apo_zero")
SUMMED = (
    *("exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_down", "discopop", "sft", "sigmoid_norm"),
)
LOSSES: dict[str, dict[str, Any]] = {name: {"loss_type": [name]} for name in ALONE} | {
    "others": {
        "loss_type": list(SUMMED),
        "loss_weights": [1 / (2 + place) for place in range(len(SUMMED))],
        "label_smoothing": 0.1,
    }
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_of_dpo_is_that_of_plain_trl(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path, name: str
) -> None:
    from trl import DPOConfig, DPOTrainer

    from trimtab.train.model import quiet
    from trimtab.train.trainer import tokenizer_of

    extra = LOSSES[name]
    settings = settings_of("dpo", extra=extra, learning_rate=1e-3, epochs=0.5)
    result = train(base, chat, records, settings, tmp_path / "run")
    ready = prepared(base, chat, records, settings)
    arguments = plain_arguments(tmp_path / "plain", settings, max_length=None, **extra)
    with quiet():
        trainer = DPOTrainer(
            model=ready.attached.model,
            args=DPOConfig(**arguments),
            train_dataset=Dataset.from_list(texts(ready, chat)),
            processing_class=tokenizer_of(ready),
        )
        theirs = plain_losses(trainer)
    ours = [point["loss"] for point in curve(result)]
    assert len(ours) == 3
    assert max(ours) - min(ours) > 1e-3
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


def test_a_prompt_that_fills_the_length_is_dropped_by_name(
    chat: ChatFormat, records: Records
) -> None:
    long = Lesson((Message("user", "why " * 80), Message("assistant", "so")), rejected="no")
    checked = preflight(chat, [*records, long], 150, OBJECTIVES["dpo"])
    assert [d.record for d in checked.dropped] == [len(records)]
    assert "no token of the last answer is left" in checked.dropped[0].reason


def test_a_record_without_two_answers_is_named(chat: ChatFormat, records: Records) -> None:
    one = Lesson((Message("user", "why?"), Message("assistant", "so")))
    with pytest.raises(DataError, match="training record 24: has no rejected answer"):
        preflight(chat, [*records, one], 512, OBJECTIVES["dpo"])
    same = dataclasses.replace(one, rejected="so")
    with pytest.raises(DataError, match="chosen and rejected are the same"):
        preflight(chat, [same], 512, OBJECTIVES["dpo"])


def test_a_metric_that_is_no_number_stops_the_run_with_its_records(tmp_path: Path) -> None:
    from transformers import TrainerState

    from trimtab.train.watch.watch import Watch

    row = Answers(9, (1, 2), ((3,), (4,)))
    watch = Watch([[row]], tmp_path, watched=("rewards/margins",))
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


def test_kto_is_that_of_plain_trl(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    from trl import KTOConfig, KTOTrainer

    from trimtab.train.model import quiet
    from trimtab.train.trainer import tokenizer_of

    settings = settings_of("kto", learning_rate=1e-3, epochs=0.5)
    result = train(base, chat, judged(records), settings, tmp_path / "run")
    ready = prepared(base, chat, judged(records), settings)
    rows = [row for row in ready.laid_out if isinstance(row, Answers)]
    data = [
        {"prompt": text["prompt"], "completion": text["chosen"], "label": row.good}
        for text, row in zip(texts(ready, chat), rows, strict=True)
    ]
    assert {row["label"] for row in data} == {True, False}
    with quiet():
        trainer = KTOTrainer(
            model=ready.attached.model,
            args=KTOConfig(**plain_arguments(tmp_path / "plain", settings, max_length=None)),
            train_dataset=Dataset.from_list(data),
            processing_class=tokenizer_of(ready),
        )
        theirs = plain_losses(trainer)
    assert [point["loss"] for point in curve(result)] == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize(("epochs", "rows"), [(1, 9), (2, 18)])
def test_no_kl_is_estimated_on_an_answer_behind_its_own_prompt(
    base: Path, chat: ChatFormat, records: Records, epochs: int, rows: int
) -> None:
    from trimtab.train.objectives.kto import mismatched

    settings = settings_of("kto", batch_size=8, epochs=epochs)
    ready = prepared(base, chat, judged(records)[:9], settings)
    pairs = [pair for batch in mismatched(ready) for pair in batch]
    assert len(ready.order[-1]) == rows % 8
    assert [row for row, _ in pairs] == ready.laid_out
    assert len(pairs) == rows
    assert all(row.record != other.record for row, other in pairs)


def test_a_judged_record_alone_is_refused(base: Path, chat: ChatFormat, records: Records) -> None:
    with pytest.raises(DataError, match="there is one alone"):
        prepared(base, chat, judged(records)[:1], settings_of("kto"))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_dropout_is_what_the_project_says_under_every_objective(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path, dropout: float
) -> None:
    from torch.nn import Dropout

    from trimtab.train.model import quiet
    from trimtab.train.trainer import arguments, build
    from trimtab.train.watch.watch import Watch

    ready = prepared(base, chat, records, settings_of("dpo", dropout=dropout))
    for objective in set(OBJECTIVES) - {"sft"}:
        settings = dataclasses.replace(ready.settings, objective=objective)
        with quiet():
            asked = arguments(dataclasses.replace(ready, settings=settings), tmp_path)
        assert asked.disable_dropout == (dropout == 0), objective
    watch = Watch(ready.step_examples, tmp_path)
    with quiet():
        build(ready, tmp_path, watch)
    shares = {m.p for m in ready.attached.model.modules() if isinstance(m, Dropout)}
    assert shares - {0.0} == {dropout} - {0.0}


def test_orpo_is_that_of_plain_trl(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    from trimtab.train.model import quiet
    from trimtab.train.trainer import tokenizer_of

    settings = settings_of("orpo", learning_rate=1e-3, epochs=0.5)
    result = train(base, chat, records, settings, tmp_path / "run")
    ready = prepared(base, chat, records, settings)
    tokenizer = tokenizer_of(ready)
    # It would put one before each prompt; the template has written what stands there.
    tokenizer.bos_token = None
    with quiet():
        trainer = ORPOTrainer(
            model=ready.attached.model,
            args=ORPOConfig(**plain_arguments(tmp_path / "plain", settings, max_length=512)),
            train_dataset=Dataset.from_list(texts(ready, chat)),
            processing_class=tokenizer,
        )
        theirs = plain_losses(trainer)
    assert [point["loss"] for point in curve(result)] == pytest.approx(theirs, abs=1e-4)


def test_a_reward_model_is_that_of_plain_trl_and_ranks(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    from trl import RewardConfig, RewardTrainer

    from trimtab.train.model import quiet
    from trimtab.train.online.reward_model import RewardModel
    from trimtab.train.trainer import tokenizer_of

    settings = settings_of("reward", epochs=2)
    result = train(base, chat, records, settings, tmp_path / "run")
    ready = prepared(base, chat, records, settings)
    data = [
        {side: text["prompt"] + text[side] for side in ("chosen", "rejected")}
        for text in texts(ready, chat)
    ]
    with quiet():
        trainer = RewardTrainer(
            model=ready.attached.model,
            args=RewardConfig(**plain_arguments(tmp_path / "plain", settings, max_length=None)),
            train_dataset=Dataset.from_list(data),
            processing_class=tokenizer_of(ready),
        )
        theirs = plain_losses(trainer)
    ours = curve(result)
    assert [point["loss"] for point in ours] == pytest.approx(theirs, abs=1e-5)
    assert ours[-1]["loss"] < ours[0]["loss"]
    model = RewardModel(base, result.files.adapter, chat)
    chosen = model.scores([r.messages for r in records])
    worse = model.scores([(*r.prompt, Message("assistant", r.rejected)) for r in records])
    assert sum(a > b for a, b in zip(chosen, worse, strict=True)) >= 22


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "reward", "method": "full"}, "reward by full"),
        ({"objective": "reward", "method": "prompt"}, "no telling padding from text"),
        ({"objective": "reward", "method": "bottleneck"}, "PEFT, which knows no bottlenecks"),
        ({"objective": "grpo", "batch_size": 6}, "not whole groups of 4"),
        ({"objective": "dpo", "turns": "every"}, "train.turns: dpo judges the last answer"),
        ({"objective": "kto", "batch_size": 1}, "needs 2 at least"),
        ({"objective": "ppo", "batch_size": 1}, "compares two answers"),
        ({"objective": "grpo", "extra": {"num_generations": 0}}, r"extra\.num_generations: 0 is"),
        ({"objective": "grpo", "extra": {"num_generations": "4"}}, r"num_generations: '4' is no"),
        ({"objective": "ppo", "extra": {"num_iterations": 0}}, r"extra\.num_iterations: 0 is"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    base: Path,
    chat: ChatFormat,
    records: Records,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    settings = dataclasses.replace(small_settings(), **changes)
    with pytest.raises(ProjectError, match=message):
        train(base, chat, records, settings, tmp_path / "run", rewards=[SHORT])
    assert not (tmp_path / "run").exists()


def test_no_reward_is_refused(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    with pytest.raises(ProjectError, match="needs one at least"):
        train(base, chat, records, settings_of("rloo"), tmp_path)


def test_a_reward_that_is_no_number_is_refused() -> None:
    broken = Reward("broken", "b", lambda rollouts: [float("nan") for _ in rollouts])
    with pytest.raises(DataError, match="'broken' gave"):
        scores(broken, [Rollout((), "a", "b", 0)])
