"""Every method with every objective: run, or refused with its reason: docs/benchmarks/matrix.json.

    make bench-matrix

Each pair takes a few steps on a tiny random base, through the same door as any run. What is shown
is that the pair computes, from finite losses, and keeps the base as it was; not that it is good.
"""

import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.tiny import build_base

from benchmarks.machine import ROOT, head
from trimtab.errors import ProjectError
from trimtab.inference import Message
from trimtab.text.chat import ChatFormat
from trimtab.train.lesson import Lesson
from trimtab.train.methods import METHODS
from trimtab.train.objectives import OBJECTIVES
from trimtab.train.online.rewards import Reward, Rollout
from trimtab.train.settings import TrainSettings
from trimtab.train.start import train

OUT = ROOT / "docs" / "benchmarks" / "matrix.json"
TICKETS = ROOT / "examples" / "support-desk" / "tickets.jsonl"
RECORDS = 16
ROLLOUTS = {"num_generations": 4, "max_completion_length": 8}


def main() -> None:
    import torch

    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        base = build_base(Path(folder) / "tiny")
        chat = ChatFormat.from_folder(base, system="Answer as JSON.")
        for objective in OBJECTIVES:
            for method in METHODS:
                rows += pair(objective, method, base, chat, Path(folder))
    OUT.write_text(json.dumps({**head(), "rows": rows}, indent=1) + "\n")
    OUT.with_suffix(".md").write_text(page(rows))


def page(rows: Sequence[dict[str, Any]]) -> str:
    """The same for people: the loss of the first and of the last step, or why there is none."""
    told = {(row["case"], row["figure"]): row for row in rows}
    lines = [
        "# Every method with every objective",
        "",
        "A few steps each on a tiny random base: the loss of the first and the last, or the reward",
        "where answers of its own are learnt from. `make bench-matrix` writes this page and",
        "`matrix.json` beside it.",
        "",
        f"| | {' | '.join(METHODS)} |",
        f"| --- |{' --- |' * len(METHODS)}",
    ]
    refused = []
    for objective in OBJECTIVES:
        cells = []
        for method in METHODS:
            case = f"{objective} by {method}"
            last = told[case, "loss"]
            if last["value"] is None:
                cells.append("refused")
                refused.append(f"- {last['reason']}.")
            else:
                what = "reward" if OBJECTIVES[objective].rollouts else "loss"
                first, last = told[case, f"first_{what}"], told[case, what]
                cells.append(f"{first['value']:.3f} to {last['value']:.3f}")
        lines.append(f"| {objective} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Refused:", "", *refused, ""])


def pair(
    objective: str, method: str, base: Path, chat: ChatFormat, folder: Path
) -> list[dict[str, Any]]:
    """The rows of one pair; a pair that fails for another reason than a refusal stops it all."""
    case = f"{objective} by {method}"
    started = time.perf_counter()
    try:
        result = train(
            base,
            chat,
            lessons(objective),
            settings(objective, method),
            folder / objective / method,
            rewards=[Reward("short", "short", short)] if OBJECTIVES[objective].rollouts else (),
        )
    except ProjectError as error:
        print(f"{case}: refused: {error.message}", flush=True)
        return [{**row(case, "loss", "nats", None), "reason": error.message}]
    taken = time.perf_counter() - started
    curve = json.loads(result.files.curve.read_bytes())
    rewards = []
    if OBJECTIVES[objective].rollouts:
        first, last = (curve[at]["metrics"]["reward"] for at in (0, -1))
        rewards = [row(case, "first_reward", "", first), row(case, "reward", "", last)]
    print(f"{case}: {result.steps} steps, loss {curve[-1]['loss']:.4f}, {taken:.1f} s", flush=True)
    return [
        row(case, "steps", "steps", result.steps),
        row(case, "first_loss", "nats", curve[0]["loss"]),
        row(case, "loss", "nats", curve[-1]["loss"]),
        *rewards,
        row(case, "trainable", "parameters", result.trainable),
        row(case, "seconds", "s", round(taken, 3)),
    ]


def settings(objective: str, method: str) -> TrainSettings:
    given = TrainSettings(objective=objective, method=method, rank=4, alpha=8, batch_size=4)
    extra = ROLLOUTS if OBJECTIVES[objective].rollouts else {}
    return dataclasses.replace(given, learning_rate=given.rate * 10, extra=extra)


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
    main()
