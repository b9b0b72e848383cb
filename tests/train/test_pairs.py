"""Objectives by methods other than LoRA against plain TRL on the same rows: the same losses.

`test_methods` has SFT by every method, `test_objectives` every objective by LoRA, `test_rollouts`
what learns from answers of its own. Of the pairs between, each method stands here with one of the
objectives; `make test-pairs` computes them all.
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM

from tests.train.conftest import Records
from tests.train.plain import (
    curve,
    in_float32,
    judged,
    plain_arguments,
    plain_losses,
    prepared,
    settings_of,
    texts,
)
from trimtab.text.chat import ChatFormat
from trimtab.train.lesson import Lesson
from trimtab.train.methods import METHODS
from trimtab.train.pairing import why_not
from trimtab.train.prepare import Prepared
from trimtab.train.rows import Answers
from trimtab.train.start import train

Pairs = list[tuple[str, str]]
SOME: Pairs = [
    ("dpo", "rslora"),
    ("kto", "dora"),
    ("dpo", "qlora"),
    ("orpo", "ia3"),
    ("dpo", "bottleneck"),
    ("reward", "prefix"),
    ("dpo", "prefix"),
    ("kto", "prompt"),
    ("dpo", "full"),
]
ALL: Pairs = [
    (objective, method)
    for objective in ("dpo", "kto", "orpo", "reward")
    for method in METHODS
    if not why_not(objective, method)
]


def dpo(ready: Prepared, rows: list[dict[str, str]], arguments: dict[str, Any]) -> Any:
    from trl import DPOConfig, DPOTrainer

    return DPOTrainer(
        args=DPOConfig(**arguments, max_length=None),
        train_dataset=Dataset.from_list(rows),
        **models(ready),
    )


def kto(ready: Prepared, rows: list[dict[str, str]], arguments: dict[str, Any]) -> Any:
    from trl import KTOConfig, KTOTrainer

    answers = [row for row in ready.laid_out if isinstance(row, Answers)]
    data = [
        {"prompt": text["prompt"], "completion": text["chosen"], "label": row.good}
        for text, row in zip(rows, answers, strict=True)
    ]
    return KTOTrainer(
        args=KTOConfig(**arguments, max_length=None),
        train_dataset=Dataset.from_list(data),
        **models(ready),
    )


def orpo(ready: Prepared, rows: list[dict[str, str]], arguments: dict[str, Any]) -> Any:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    given = models(ready, reference=False)
    given["processing_class"].bos_token = None
    if ready.attached.method.name == "prompt":
        # TRL knows nothing of what is said before the text, and would compare it with labels.
        given["model"].register_forward_hook(of_the_text)
    return ORPOTrainer(
        args=ORPOConfig(**arguments, max_length=512),
        train_dataset=Dataset.from_list(rows),
        **given,
    )


def of_the_text(model: Any, given: tuple[Any, ...], out: Any) -> Any:
    """The logits of the tokens that were given, without those of virtual ones before them."""
    out.logits = out.logits[:, -given[0].shape[1] :]
    return out


def reward(ready: Prepared, rows: list[dict[str, str]], arguments: dict[str, Any]) -> Any:
    from trl import RewardConfig, RewardTrainer

    data = [{side: text["prompt"] + text[side] for side in ("chosen", "rejected")} for text in rows]
    return RewardTrainer(
        args=RewardConfig(**arguments, max_length=None),
        train_dataset=Dataset.from_list(data),
        **models(ready, reference=False),
    )


PLAIN: dict[str, Callable[[Prepared, list[dict[str, str]], dict[str, Any]], Any]] = {
    "dpo": dpo,
    "kto": kto,
    "orpo": orpo,
    "reward": reward,
}


def models(ready: Prepared, reference: bool = True) -> dict[str, Any]:
    """The model as it was attached, and what stands for the base where no adapter can be put off:
    the base as a stranger loads it.
    """
    from peft import PeftModel

    from trimtab.train.trainer import tokenizer_of

    model = ready.attached.model
    given: dict[str, Any] = {"model": model, "processing_class": tokenizer_of(ready)}
    if reference and not (isinstance(model, PeftModel) and ready.attached.method.in_layers):
        given["ref_model"] = AutoModelForCausalLM.from_pretrained(ready.base)
    return given


@pytest.mark.parametrize(
    ("objective", "method"), ALL if os.environ.get("TRIMTAB_EVERY_PAIR") else SOME
)
def test_the_pair_learns_as_in_plain_trl(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path, objective: str, method: str
) -> None:
    from trimtab.train.model import quiet

    lessons: list[Lesson] = judged(records) if objective == "kto" else list(records)
    settings = settings_of(objective, learning_rate=2e-3, epochs=0.5)
    settings = dataclasses.replace(settings, method=method)
    result = train(base, chat, lessons, settings, tmp_path / "run")
    ready = prepared(base, chat, lessons, settings)
    arguments = plain_arguments(tmp_path / "plain", settings)
    with quiet():
        trainer = PLAIN[objective](ready, texts(ready, chat), arguments)
        theirs = plain_losses(in_float32(trainer))
    ours = [point["loss"] for point in curve(result)]
    assert len(ours) == 3
    # In 4 bits the products are summed in another order, which Adam's first steps magnify.
    assert ours == pytest.approx(theirs, abs=5e-4 if METHODS[method].quantised else 1e-4)
