"""A whole project over the tiny base: real files, a loop in seconds.

A random model of a few thousand weights cannot learn to answer tickets, but it does learn which
tokens come often, so its gate measures log-likelihood.
"""

import json
from pathlib import Path

import yaml

from tests.tiny import build_base

TICKETS = Path(__file__).parent.parent / "examples" / "support-desk" / "tickets.jsonl"

TRAIN = {"learning_rate": 0.01, "epochs": 1, "batch_size": 8}


def write_project(folder: Path, records: int = 160, **changes: object) -> Path:
    """A project file with its base and records beside it; `changes` replace whole sections."""
    build_base(folder / "base")
    write_records(folder / "tickets.jsonl", records)
    content = {
        "name": "tiny",
        "base": "base",
        "data": {
            "sources": [{"path": "tickets.jsonl"}],
            "system": "Answer as JSON.",
            "holdout": 0.2,
            "shadow": 0.08,
        },
        "train": TRAIN,
        "evaluate": {
            "match": ["intent", "urgency", "product"],
            "gate": "log_likelihood",
            "shots": 1,
            "max_tokens": 8,
        },
        "deploy": {"slo": {"p95_ms": 20000}, "shadow": {"requests": 5}},
    }
    file = folder / "trimtab.yaml"
    file.write_text(yaml.safe_dump(content | changes))
    return file


def write_pairs(file: Path, count: int) -> None:
    """Preference pairs: each ticket's own answer, and one that gives up."""
    rows = [json.loads(line) for line in TICKETS.read_text().splitlines()[:count]]
    with file.open("w") as out:
        for number, row in enumerate(rows):
            pair = {"chosen": row["completion"], "rejected": f"Sorry, I cannot help {number}."}
            out.write(json.dumps({"prompt": row["prompt"], **pair}) + "\n")


def write_records(file: Path, count: int, start: int = 0) -> None:
    lines = TICKETS.read_text().splitlines()[start : start + count]
    assert all(json.loads(line)["prompt"] for line in lines)
    file.write_text("\n".join(lines) + "\n")
