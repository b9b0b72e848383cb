"""docs/benchmarks/train-gpu.md out of docs/benchmarks/train-gpu.json."""

import json
from pathlib import Path
from typing import Any

from benchmarks.train.gpu.rows import told_of

FILE = Path("docs/benchmarks/train-gpu.json")
TITLES = {
    "lora-sft-1b": "LoRA SFT, Llama-3.2-1B's shape",
    "lora-sft-8b": "LoRA SFT, Llama-3-8B's shape",
    "qlora-sft-70b": "QLoRA SFT, Llama-3-70B's shape in nf4, twenty steps",
    "qlora-sft-1b": "QLoRA SFT, Llama-3.2-1B's shape in nf4: what the optimizer holds",
}
COLUMNS = (
    ("run", "run", "{}"),
    ("tokens/s", "tok_s", "{:,.0f}"),
    ("peak MB", "peak_mb", "{:,.0f}"),
    ("last loss", "last_loss", "{:.3f}"),
    ("held-out loss", "final_loss", "{:.4f}"),
    ("share of limit", "share_of_limit", "{:.1%}"),
    ("MFU", "mfu", "{:.1%}"),
    ("path", "path", "{}"),
    ("commit", "commit", "{}"),
)
ABOUT = """\
Weights are random, drawn on the card in bfloat16 at the published shape of each model: speed and
memory do not depend on what is in a matrix. Records are random words at lengths like the
quickstart's, packed to rows of 1,024 tokens, the same for every system; the settings are the
quickstart's (rank 16, dropout 0.05, on q, k, v and o), two rows a batch, eight batches a step at 1B
and four at 8B. Of the 70B shape each layer is drawn and quantised by itself; in both QLoRA cases a
step is one record of 1,024 tokens, without packing and without dropout, the adapter is on all
linear layers, and the optimizer is `paged_adamw_32bit` where the name says nothing else.

A step ends when its loss has come back; the first two are left out, and the median of the others
but the last is told: of two to three steps, of seventeen at 70B. Peak memory is what torch held at
the most from the first step on, weights included; what CUDA itself takes, and what a paged
optimizer keeps outside torch, is not in it. Losses are in nats a token; held-out loss is of records
that nobody trained on, by plain transformers. The share of the limit is the time of the step's
matrix products, each timed by itself at its own shape, over the time of the step; products inside
attention are not counted.
MFU is over 989 TFLOP/s, the datasheets' dense bfloat16.

The path: `stream` is our own; `transformers` is what our trainer does with a model that it does not
know. `trl-liger` is TRL as the quickstart sets it, with Liger's kernels; `trl-liger-tuned` the same
without activation checkpointing. TRL's packing wants flash attention as a package of its own, which
was not on that machine: it computes packed rows by torch's attention under a mask. Two systems are
compared by the best row of each, and where those are of different runs, they were of one kind of
card and not of one hour.
"""


def main() -> None:
    found = json.loads(FILE.read_text())
    FILE.with_suffix(".md").write_text(page(found))


def page(found: dict[str, Any]) -> str:
    """The file as Markdown."""
    card, libraries = found["card"], found["libraries"]
    versions = ", ".join(f"{name} {version}" for name, version in libraries.items())
    parts = [
        "# Training on one card beside TRL with Liger's kernels",
        "",
        f"One {card['name']} ({card['memory'] / 2**30:.0f} GiB), CUDA {card['cuda']}; {versions}; "
        f"{found['date']}, by `{found['command']}`, which writes [train-gpu.json](train-gpu.json) "
        "and this page.",
        "",
    ]
    parts += [found["about"], ""] if "about" in found else []
    parts.append(ABOUT)
    told = told_of(found["rows"])
    for case in dict.fromkeys(each["case"] for each in told):
        parts += _table(case, [each for each in told if each["case"] == case])
    return "\n".join(parts)


def _table(case: str, rows: list[dict[str, Any]]) -> list[str]:
    measured = [row for row in rows if "tok_s" in row]
    tokens = {round(row["tokens"]) for row in measured}
    lines = [
        f"## {TITLES[case]}",
        "",
        f"{' and '.join(f'{count:,}' for count in sorted(tokens))} tokens a step.",
        "",
        f"| system | {' | '.join(title for title, _, _ in COLUMNS)} |",
        f"|---|{'---:|' * len(COLUMNS)}",
    ]
    for row in measured:
        cells = [form.format(row[name]) if name in row else "" for _, name, form in COLUMNS]
        lines.append(f"| {row['system']} | {' | '.join(cells)} |")
    said = [f"- {row['system']}, run {row['run']}: {row['note']}." for row in rows if "note" in row]
    failed = [f"- {row['system']}: failed: {row['failed']}" for row in rows if "failed" in row]
    return [*lines, "", *said, *failed, *([""] if said or failed else [])]


if __name__ == "__main__":
    main()
