"""The same run as a stranger would write it: plain TRL over the same rows, or the loss by hand."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from tests.train.conftest import Records, small_settings
from trimtab.inference import Message
from trimtab.text.chat import ChatFormat
from trimtab.train.lesson import Lesson
from trimtab.train.objectives import objective_of
from trimtab.train.online.rewards import Reward, Rollout
from trimtab.train.preflight import preflight
from trimtab.train.prepare import Prepared, prepare
from trimtab.train.rows import Answers
from trimtab.train.run import RunResult
from trimtab.train.settings import TrainSettings


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


def in_float32(trainer: Any) -> Any:
    """What learns over a base in 4 bits, which TRL narrows to bfloat16; elsewhere it is so."""
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trainer


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


def plain_rollouts(ready: Prepared, chat: ChatFormat, folder: Path) -> list[float]:
    """The losses of plain TRL, its answers drawn by the same chance and rewarded by SHORT."""
    import trl

    from trimtab.train.online.draws import dealt, draws
    from trimtab.train.trainer import tokenizer_of

    settings = ready.settings
    prompts = [chat.tokenizer.decode(row.prompt, keep_special=True) for row in ready.laid_out]

    def short(*, completions: list[str], **_: Any) -> list[float]:
        return [-len(answer) / 10 for answer in completions]

    arguments = plain_arguments(folder, settings, shuffle_dataset=False, **settings.extra)
    del arguments["train_sampling_strategy"]
    config, trainer_class = (
        getattr(trl, f"{settings.objective.upper()}{kind}") for kind in ("Config", "Trainer")
    )
    trainer = trainer_class(
        model=ready.attached.model,
        args=config(**arguments),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=tokenizer_of(ready),
        reward_funcs=[short],
    )
    if not ready.attached.method.in_layers:
        # Virtual tokens change what a model says before they have learnt anything: the reference
        # is the base, and not TRL's copy of them.
        del trainer.model.peft_config["ref"]
    plain = trainer._generate_single_turn

    def generate(*given: Any) -> Any:
        chance = draws(settings.seed, trainer.state.global_step, ready.places)
        with dealt(trainer.model, chance):
            return plain(*given)

    trainer._generate_single_turn = generate
    return plain_losses(in_float32(trainer))


class ByHand:
    """PPO's loss written out, token by token, from plain passes of the model.

    `trainer` is ours; `pairs` holds its losses with those written out.
    """

    def __init__(self, trainer: Any, base: Path) -> None:
        self.trainer = trainer
        self.base = base
        self.old: Any = None
        self.pairs: list[tuple[float, float]] = []
        self.theirs = trainer._compute_loss
        trainer._compute_loss = self

    def __call__(self, model: Any, made: Any) -> Any:
        loss = self.theirs(model, made)
        with torch.no_grad():
            self.pairs.append((loss.item(), self.loss(model, made)))
        return loss

    def passed(self, model: Any, made: Any) -> list[list[float]]:
        """Log-probabilities of the answers' tokens."""
        answers, rows = made["completion_ids"], inputs(made)
        width = answers.shape[1]
        # From behind, for virtual tokens may stand before the prompt.
        table = torch.log_softmax(model(**rows).logits[:, -width - 1 : -1], dim=-1)
        found: list[list[float]] = table.gather(2, answers[..., None])[..., 0].tolist()
        return found

    def values(self, model: Any, made: Any) -> list[list[float]]:
        """What the head expects before each token of an answer, from the states of the text."""
        from trimtab.train.stream.walk import bare

        width = made["completion_ids"].shape[1]
        out = bare(model)(**inputs(made), output_hidden_states=True)
        head = self.trainer._head
        states = out.hidden_states[-1][:, -width - 1 : -1]
        found: list[list[float]] = (states @ head.weight[0] + head.bias).tolist()
        return found

    def reference(self, model: Any, made: Any) -> list[list[float]]:
        """Log-probabilities by the base, as it lies on the disk where no adapter can be put off."""
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        if not isinstance(model, PeftModel):
            return self.passed(AutoModelForCausalLM.from_pretrained(self.base), made)
        with model.disable_adapter():
            return self.passed(model, made)

    def loss(self, model: Any, made: Any) -> float:
        logps, values = self.passed(model, made), self.values(model, made)
        if self.old is None:
            self.old = logps, values, self.reference(model, made)
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


def inputs(made: Any) -> dict[str, Any]:
    """Prompts and answers as a model of transformers takes them."""
    return {
        "input_ids": torch.cat([made["prompt_ids"], made["completion_ids"]], dim=1),
        "attention_mask": torch.cat([made["prompt_mask"], made["completion_mask"]], dim=1),
    }
