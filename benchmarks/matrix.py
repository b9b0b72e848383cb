"""Every method with every objective: run, or refused with its reason: docs/benchmarks/matrix.json.

    make bench-matrix
    python -m benchmarks.matrix grpo rloo    # these again; the rows of the others stay

Each pair takes a few steps on a tiny random base, through the same door as any run. What is shown
is that the pair computes, changes what is said and keeps the base as it was; not that it is good.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from tests.tiny import build_base

from benchmarks.machine import ROOT, head
from trimtab.errors import ProjectError
from trimtab.inference import Message
from trimtab.text.chat import ChatFormat
from trimtab.train.lesson import Lesson
from trimtab.train.methods import METHODS
from trimtab.train.objectives import OBJECTIVES, objective_of
from trimtab.train.online.rewards import Reward, Rollout
from trimtab.train.run import StepProgress
from trimtab.train.settings import TrainSettings
from trimtab.train.start import train

OUT = ROOT / "docs" / "benchmarks" / "matrix.json"
TICKETS = ROOT / "examples" / "support-desk" / "tickets.jsonl"
RECORDS = 16
# Such that what a method says has moved within a few steps, and is not torn apart.
RATES = {"ia3": 0.1, "prompt": 0.5, "prefix": 0.3, "full": 0.003}
RATE = 0.02
ROLLOUTS = {
    "num_generations": 4,
    "max_completion_length": 8,
    "beta": 0.01,
    "lr_scheduler_type": "constant",
}

# The rows by case and figure.
Told = dict[tuple[str, str], dict[str, Any]]


def main(only: Sequence[str]) -> None:
    import torch

    torch.set_num_threads(1)
    for name in only:
        objective_of(name)
    kept = json.loads(OUT.read_bytes())["rows"] if only else []
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        base = build_base(Path(folder) / "tiny")
        chat = ChatFormat.from_folder(base, system="Answer as JSON.")
        for objective in OBJECTIVES:
            if only and objective not in only:
                rows += [each for each in kept if each["case"].startswith(f"{objective} by ")]
                continue
            for method in METHODS:
                rows += pair(objective, method, base, chat, Path(folder))
    OUT.write_text(json.dumps({**head(), "rows": rows}, indent=1) + "\n")
    OUT.with_suffix(".md").write_text(page(rows))


def page(rows: Sequence[dict[str, Any]]) -> str:
    """The same for people: what came of the first steps and of the last, or why nothing did."""
    told = {(row["case"], row["figure"]): row for row in rows}
    refused = [
        f"- {told[case, 'loss']['reason']}."
        for objective in OBJECTIVES
        for method in METHODS
        if told[case := f"{objective} by {method}", "loss"]["value"] is None
    ]
    trained = [name for name in OBJECTIVES if not OBJECTIVES[name].rollouts]
    sampled = [name for name in OBJECTIVES if OBJECTIVES[name].rollouts]
    return "\n".join(
        [
            "# Every method with every objective",
            "",
            "A few steps each on a tiny random base, at a rate at which what it says moves.",
            "`make bench-matrix` writes this page and `matrix.json` beside it.",
            "",
            "The loss of the first step and of the last:",
            "",
            *_table(trained, told, _losses),
            "",
            "Where answers of its own are learnt from (a letter less is a tenth more): the",
            "mean reward in the first quarter of the steps and in the last, and how far the policy",
            "is from the base then, in nats a token. Each moves; sixteen steps raise the reward of",
            "some:",
            "",
            *_table(sampled, told, _rewards),
            "",
            "Refused:",
            "",
            *refused,
            "",
        ]
    )


def _table(
    objectives: Sequence[str],
    told: Told,
    cell: Callable[[str, Told], str],
) -> list[str]:
    lines = [f"| | {' | '.join(METHODS)} |", f"| --- |{' --- |' * len(METHODS)}"]
    for objective in objectives:
        cells = [cell(f"{objective} by {method}", told) for method in METHODS]
        lines.append(f"| {objective} | {' | '.join(cells)} |")
    return lines


def _losses(case: str, told: Told) -> str:
    if told[case, "loss"]["value"] is None:
        return "refused"
    return f"{told[case, 'first_loss']['value']:.3f} to {told[case, 'loss']['value']:.3f}"


def _rewards(case: str, told: Told) -> str:
    first, last, kl = (told[case, name]["value"] for name in ("first_reward", "reward", "kl"))
    return f"{first:.3f} to {last:.3f}, {kl:.2f}"


def pair(
    objective: str, method: str, base: Path, chat: ChatFormat, folder: Path
) -> list[dict[str, Any]]:
    """The rows of one pair; a pair that fails for another reason than a refusal stops it all."""
    case = f"{objective} by {method}"
    rollouts = OBJECTIVES[objective].rollouts
    seen: list[StepProgress] = []
    started = time.perf_counter()
    try:
        result = train(
            base,
            chat,
            lessons(objective),
            settings(objective, method),
            folder / objective / method,
            on_step=seen.append,
            rewards=[Reward("short", "short", short)] if rollouts else (),
        )
    except ProjectError as error:
        print(f"{case}: refused: {error.message}", flush=True)
        return [{**row(case, "loss", "nats", None), "reason": error.message}]
    taken = time.perf_counter() - started
    rewards = []
    if rollouts:
        quarter = len(seen) // 4
        each = [step.metrics["reward"] for step in seen]
        rewards = [
            row(case, "first_reward", "", mean(each[:quarter])),
            row(case, "reward", "", mean(each[-quarter:])),
            row(case, "kl", "nats", seen[-1].metrics["kl"]),
        ]
    print(f"{case}: {result.steps} steps, loss {seen[-1].loss:.4f}, {taken:.1f} s", flush=True)
    return [
        row(case, "steps", "steps", result.steps),
        row(case, "first_loss", "nats", seen[0].loss),
        row(case, "loss", "nats", seen[-1].loss),
        *rewards,
        row(case, "trainable", "parameters", result.trainable),
        row(case, "seconds", "s", round(taken, 3)),
    ]


def settings(objective: str, method: str) -> TrainSettings:
    given = TrainSettings(
        objective=objective,
        method=method,
        rank=4,
        alpha=8,
        batch_size=4,
        learning_rate=RATES.get(method, RATE),
    )
    if not OBJECTIVES[objective].rollouts:
        return given
    return replace(given, batch_size=16, epochs=4, extra=ROLLOUTS)


def lessons(objective: str) -> list[Lesson]:
    """Tickets, each with an answer that gives up; where answers are judged, half of each."""
    rows = [json.loads(line) for line in TICKETS.read_text().splitlines()[:RECORDS]]
    found = []
    for number, entry in enumerate(rows):
        answer = json.dumps(entry["completion"], separators=(",", ":"))
        worse = f"Sorry, I cannot help with {number}."
        good = number % 2 == 0
        if objective == "kto":
            said = answer if good else worse
            turns = (Message("user", entry["prompt"]), Message("assistant", said))
            found.append(Lesson(turns, good=good))
        else:
            turns = (Message("user", entry["prompt"]), Message("assistant", answer))
            found.append(Lesson(turns, worse))
    return found


def short(rollouts: Sequence[Rollout]) -> list[float]:
    """Fewer characters are better: something that even a random model can learn."""
    return [-len(each.answer) / 10 for each in rollouts]


def row(case: str, figure: str, unit: str, value: float | None) -> dict[str, Any]:
    return {
        "system": "trimtab",
        "case": case,
        "figure": figure,
        "value": value,
        "unit": unit,
        "repetitions": [] if value is None else [value],
        "precision": "float32",
    }


if __name__ == "__main__":
    main(sys.argv[1:])
