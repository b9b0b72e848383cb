"""Campaign: how far two programs that are right are apart in bfloat16, on a real base.

The engine and transformers compute the same text in bfloat16, and transformers in float32 too. The
text is this repository's own; the figures are what `inference.NARROW_NATS` stands on.
`make test-rounding` writes docs/campaigns/rounding.json.
"""

import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from benchmarks.machine import ROOT
from rich.progress import track
from transformers import AutoModelForCausalLM

from tests.campaigns import record
from tests.engine.paths import score
from trimtab.engine.continuous.path import ContinuousPath
from trimtab.engine.llama.family import read_shape
from trimtab.flows.bases import resolve
from trimtab.flows.watch import Silent
from trimtab.inference import NARROW_MEAN_NATS, NARROW_NATS, VersionFiles
from trimtab.text.tokenizer import Tokenizer

BASE = "smollm2-135m-instruct-q4"
GUIDES = ROOT / "docs" / "guides"
ROWS, PROMPT, END = 16, 8, 32
"""Passages, and tokens of each that are read and scored."""

Rows = list[tuple[tuple[int, ...], tuple[int, ...]]]
Logprobs = list[tuple[float, ...]]


def passages(base: Path) -> Rows:
    """Evenly out of all guides."""
    encode = Tokenizer(base).encode
    text = list(chain(*(encode(path.read_text()) for path in sorted(GUIDES.glob("*.md")))))
    starts = (i * (len(text) - PROMPT - END) // ROWS for i in range(ROWS))
    parts = [tuple(text[start : start + PROMPT + END]) for start in starts]
    return [(part[:PROMPT], part[PROMPT:]) for part in parts]


def transformers_says(base: Path, rows: Rows, dtype: torch.dtype) -> Logprobs:
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=dtype).eval()
    return [_said(model, *row) for row in track(rows, f"transformers, {dtype}")]


def _said(model: Any, prompt: Sequence[int], end: Sequence[int]) -> tuple[float, ...]:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *end]])).logits[0].float()
    told = logits.log_softmax(-1)[len(prompt) - 1 :]
    return tuple(float(told[at, token]) for at, token in enumerate(end))


def engine_says(base: Path, rows: Rows) -> Logprobs:
    shape = read_shape(base)
    assert shape is not None
    path = ContinuousPath(base, shape, torch.bfloat16, torch.device("cpu"))
    path.load(VersionFiles("base", base, None, base, ()))
    return [found.logprobs for found in score(path, "base", rows)]


def apart(ones: Logprobs, others: Logprobs) -> list[float]:
    """Nats, the least first."""
    pairs = zip(chain(*ones), chain(*others), strict=True)
    return sorted(abs(a - b) for a, b in pairs)


def main() -> int:
    base = resolve(BASE, Path.cwd(), Silent()).folder
    rows = passages(base)
    engine = engine_says(base, rows)
    narrow, wide = (transformers_says(base, rows, d) for d in (torch.bfloat16, torch.float32))
    pairs = {
        "engine beside transformers, both bfloat16": apart(engine, narrow),
        "engine in bfloat16 beside float32": apart(engine, wide),
        "transformers in bfloat16 beside float32": apart(narrow, wide),
    }
    figures = {
        name: {
            "most_nats": round(found[-1], 4),
            "p99_nats": round(found[len(found) * 99 // 100], 4),
            "mean_nats": round(sum(found) / len(found), 4),
        }
        for name, found in pairs.items()
    }
    violations = sum(
        sum(nats > NARROW_NATS for nats in found) + (sum(found) > NARROW_MEAN_NATS * len(found))
        for found in pairs.values()
    )
    print(record("rounding", violations, {"tokens": ROWS * END}, figures=figures))
    for name, told in figures.items():
        print(name, told)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
