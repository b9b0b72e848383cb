"""Each objective against plain TRL on the same rows: the same losses, step by step."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
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
from trimtab.train.rewards import Reward, Rollout, scores
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
    assert "no token of an answer is left" in checked.dropped[0].reason


def test_a_record_without_two_answers_is_named(chat: ChatFormat, records: Records) -> None:
    one = Lesson((Message("user", "why?"), Message("assistant", "so")))
    with pytest.raises(DataError, match="training record 24: has no rejected answer"):
        preflight(chat, [*records, one], 512, OBJECTIVES["dpo"])
    same = dataclasses.replace(one, rejected="so")
    with pytest.raises(DataError, match="chosen and rejected are the same"):
        preflight(chat, [same], 512, OBJECTIVES["dpo"])


def test_a_metric_that_is_no_number_stops_the_run_with_its_records(tmp_path: Path) -> None:
    from transformers import TrainerState

    from trimtab.train.watch import Watch

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


def judged(records: Records) -> list[Lesson]:
    """Half of the answers good, half of them bad."""
    return [
        Lesson(
            (*r.prompt, Message("assistant", r.answer if i % 2 else r.rejected)), good=i % 2 == 1
        )
        for i, r in enumerate(records)
    ]


def length(rollouts: Sequence[Rollout]) -> list[float]:
    """A reward that a random model can learn: answers of few characters."""
    return [-len(each.answer) / 10 for each in rollouts]


SHORT = Reward("short", "short", length)


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
    from trimtab.train.watch import Watch

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
    from trimtab.train.reward_model import RewardModel
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


@pytest.mark.parametrize("objective", ["grpo", "rloo"])
def test_learning_from_own_answers_is_that_of_plain_trl(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path, objective: str
) -> None:
    """The same draws give the same answers, so the same losses."""
    import trl

    from trimtab.train.draws import dealt, draws
    from trimtab.train.model import quiet
    from trimtab.train.trainer import tokenizer_of

    extra = {"num_generations": 4, "max_completion_length": 8, "beta": 0.05}
    settings = settings_of(objective, learning_rate=1e-3, batch_size=8, extra=extra, epochs=0.25)
    result = train(base, chat, records, settings, tmp_path / "run", rewards=[SHORT])
    checked = preflight(chat, records, 512, OBJECTIVES[objective])
    ready = prepare(base, settings, checked, records, [SHORT])
    prompts = [chat.tokenizer.decode(row.prompt, keep_special=True) for row in ready.laid_out]

    def short(*, completions: list[str], **_: Any) -> list[float]:
        return [-len(answer) / 10 for answer in completions]

    arguments = plain_arguments(tmp_path / "plain", settings, shuffle_dataset=False, **extra)
    del arguments["train_sampling_strategy"]
    config, trainer_class = (
        getattr(trl, f"{objective.upper()}{kind}") for kind in ("Config", "Trainer")
    )
    with quiet():
        trainer = trainer_class(
            model=ready.attached.model,
            args=config(**arguments),
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
            processing_class=tokenizer_of(ready),
            reward_funcs=[short],
        )
        plain = trainer._generate_single_turn

        def generate(*given: Any) -> Any:
            chance = draws(settings.seed, trainer.state.global_step, ready.places)
            with dealt(trainer.model, chance):
                return plain(*given)

        trainer._generate_single_turn = generate
        theirs = plain_losses(trainer)
    assert [point["loss"] for point in curve(result)] == pytest.approx(theirs, abs=1e-5)
    assert len(theirs) == result.steps == 3
    assert any(theirs)


class ByHand:
    """PPO's loss written out, token by token, from plain passes of the model."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.old: Any = None
        self.pairs: list[tuple[float, float]] = []
        self.theirs = trainer._compute_loss
        trainer._compute_loss = self

    def __call__(self, model: Any, made: Any) -> Any:
        loss = self.theirs(model, made)
        with torch.no_grad():
            self.pairs.append((loss.item(), self.loss(model, made)))
        return loss

    def passed(self, model: Any, made: Any) -> tuple[list[list[float]], list[list[float]]]:
        """Log-probabilities of the answers' tokens, and what the head expects before each."""
        answers = made["completion_ids"]
        tokens = torch.cat([made["prompt_ids"], answers], dim=1)
        seen = torch.cat([made["prompt_mask"], made["completion_mask"]], dim=1)
        out = model(input_ids=tokens, attention_mask=seen, output_hidden_states=True)
        start = made["prompt_ids"].shape[1] - 1
        table = torch.log_softmax(out.logits[:, start:-1], dim=-1)
        head = self.trainer._head
        values = out.hidden_states[-1][:, start:-1] @ head.weight[0] + head.bias
        return table.gather(2, answers[..., None])[..., 0].tolist(), values.tolist()

    def loss(self, model: Any, made: Any) -> float:
        logps, values = self.passed(model, made)
        if self.old is None:
            with model.disable_adapter():
                self.old = logps, values, self.passed(model, made)[0]
        old_logps, old_values, reference = self.old
        decode = self.trainer.processing_class.decode
        lengths = [int(row.sum()) for row in made["completion_mask"]]
        steps = []
        for row, length in enumerate(lengths):
            answer = decode(made["completion_ids"][row][:length], skip_special_tokens=True)
            rewards = [-0.05 * (old_logps[row][t] - reference[row][t]) for t in range(length)]
            rewards[-1] += -len(answer) / 10
            for t in range(length):
                later = [*old_values[row][:length], 0.0]
                advantage = sum(
                    0.95 ** (u - t) * (rewards[u] + later[u + 1] - later[u])
                    for u in range(t, length)
                )
                steps.append((row, t, advantage, advantage + old_values[row][t]))
        mean = sum(step[2] for step in steps) / len(steps)
        spread = sum((step[2] - mean) ** 2 for step in steps) / len(steps)
        policy = value = 0.0
        for row, t, advantage, due in steps:
            worth = (advantage - mean) / math.sqrt(spread + 1e-8)
            ratio = math.exp(logps[row][t] - old_logps[row][t])
            policy -= min(ratio * worth, min(max(ratio, 0.8), 1.2) * worth)
            before, now = old_values[row][t], values[row][t]
            near = before + min(max(now - before, -0.2), 0.2)
            value += max((now - due) ** 2, (near - due) ** 2) / 2
        return (policy + 0.1 * value) / len(steps)


def test_ppo_is_that_written_out_by_hand(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    """On one batch, before the first step and after it, where it is clipped."""
    from trimtab.train.model import quiet
    from trimtab.train.trainer import build
    from trimtab.train.watch import Watch

    extra = {"num_generations": 4, "max_completion_length": 6, "beta": 0.05, "num_iterations": 2}
    extra["warmup_steps"] = 0
    settings = settings_of("ppo", learning_rate=0.05, batch_size=8, extra=extra, epochs=0.09)
    checked = preflight(chat, records, 512, OBJECTIVES["ppo"])
    ready = prepare(base, settings, checked, records, [SHORT])
    with quiet():
        watch = Watch(ready.step_examples, tmp_path)
        trainer = build(ready, tmp_path, watch)
        by_hand = ByHand(trainer)
        trainer.train()
    assert len(by_hand.pairs) == 2
    for ours, wanted in by_hand.pairs:
        assert ours == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert by_hand.pairs[0][0] != pytest.approx(by_hand.pairs[1][0], abs=1e-3)


def test_answers_of_its_own_are_rewarded_and_learnt_from(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    extra = {"num_generations": 4, "max_completion_length": 6, "beta": 0.05, "num_iterations": 2}
    settings = settings_of("ppo", learning_rate=0.01, batch_size=8, extra=extra, epochs=0.25)
    result = train(base, chat, records, settings, tmp_path, rewards=[SHORT])
    told = curve(result)
    assert len(told) == result.steps == 6
    assert told[0]["metrics"]["reward"] < 0
    assert (result.files.adapter / "adapter_model.safetensors").is_file()
    assert result.files.probes.is_file()


def test_the_value_head_reads_states_of_any_width(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is kept in float32, and on a card states are in bfloat16."""
    from trimtab.train.objectives import ppo

    wide = ppo.hidden_states
    monkeypatch.setattr(ppo, "hidden_states", lambda *given: wide(*given).bfloat16())
    extra = {"num_generations": 4, "max_completion_length": 6}
    settings = settings_of("ppo", batch_size=8, extra=extra, epochs=0.09)
    told = curve(train(base, chat, records, settings, tmp_path, rewards=[SHORT]))
    assert [math.isfinite(point["loss"]) for point in told] == [True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "reward", "method": "full"}, "reward by full"),
        ({"objective": "reward", "method": "prompt"}, "no telling padding from text"),
        ({"objective": "reward", "method": "bottleneck"}, "PEFT, which knows no bottlenecks"),
        ({"objective": "grpo", "batch_size": 6}, "not whole groups of 4"),
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
