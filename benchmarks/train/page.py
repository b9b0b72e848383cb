"""The page, rendered from docs/benchmarks/train.json; goals met and missed alike.

python -m benchmarks.train.page
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.train.rows import of_cells, together

FILE = ROOT / "docs" / "benchmarks" / "train.json"
PAGE = FILE.with_suffix(".md")
FIGURES = ("tok_s", "peak_mb", "first_loss", "final_loss", "share_of_limit", "tokens")
# Case, peer and how many times its speed, as the issue that asked for this benchmark sets them.
GOALS = (
    ("lora-sft", "trl", 5.0),
    ("lora-sft", "trl-tuned", 3.5),
    ("dpo", "trl", 3.0),
    ("qlora-sft", "trl", 3.0),
)
# Of the best peer but TRL whose losses agree.
BEST_PEER = 1.5
OURS, TRL = "trimtab", ("trl", "trl-tuned")
# Losses that are further apart than this share are not of one job.
NOISE = 0.01
LIMIT = 0.65
# Rounds that a goal is judged by.
ENOUGH = 3
ABOUT = """\
Every system trains the same records, rendered once by our chat format: the same tokens, the same
mask. `lora-sft`: the quickstart (rank 16 on q, k, v and o, dropout 0.05, two rows of 1,024 tokens
a batch), Alpaca-format records; its accumulation is 1 in place of 8, and its warm-up 0, which one
step would not outlast. `dpo`: pairs of HH-RLHF, rank 16 on all linear layers, two a batch.
`qlora-sft`: the quickstart over nf4 with double quantisation, on all linear layers, two rows of
256 tokens. `trl` is TRL with its own defaults, checkpointing on; `trl-tuned` the fastest that TRL
was set to here: nothing computed twice, a record at a time accumulated to the same step, so that
nothing is padded or masked, and freed memory kept as we keep it. `ms-swift` 4.6.0 and `torchtune`
0.6.1 run in environments of their own over the same build of torch, set as `trl-tuned` is: the one
packs under flash attention alone, which no CPU has, the other under one dense mask. All compute in
float32: this machine has no bfloat16. Tokens are those of the records, whatever a system computes
for them; seconds hold the optimizer's steps, and neither saving nor our samples of a model's
answers. `final_loss` is that of held-out records after training, by plain transformers (of pairs,
of the chosen answer); `first_loss` that of the step's records before the update. Losses more than
1 % from ours would make it another job, which no goal counts. `share_of_limit` is the time of the
step's matrix products alone, each at its own shape, over the time of the step. It and `final_loss`
are measured in the first round of a run.

What has no row was not measured. torchtune does not quantise this base: its 4 bits want the scales
of a matrix in whole blocks of 256, and 576 x 576 numbers have 5,184. litgpt 0.5.13 installs and was
not run: where it accumulates it takes the mean of the records' mean losses, so that the same job
would be one batch, padded to the longest; it has no DPO, and 4 bits on a card alone. LLaMA-Factory
0.9.5 imports torchaudio, whose builds on PyPI load libtorch_cuda, and torch for CPUs has none."""


class Table:
    """The file's rows by (system, case, figure)."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found
        self.rows = of_cells(found["rows"])
        self.systems = list(dict.fromkeys(row["system"] for row in found["rows"]))
        self.cases = list(dict.fromkeys(row["case"] for row in found["rows"]))

    def rounds(self, system: str, case: str) -> int:
        """How often a system was measured on a case."""
        row = self.rows.get((system, case, "tok_s"))
        return len(row["repetitions"]) if row else 0

    def value(self, system: str, case: str, figure: str) -> float | None:
        row = self.rows.get((system, case, figure))
        return float(row["value"]) if row else None

    def ratio(self, system: str, case: str, figure: str) -> tuple[float, int] | None:
        """Ours over theirs, and of how many rounds; None where one run does not hold both."""
        rows = [self.rows.get((each, case, figure)) for each in (OURS, system)]
        if rows[0] is None or rows[1] is None:
            return None
        ours, theirs, rounds = together(rows[0], rows[1])
        return (ours / theirs, rounds) if rounds else None

    def fair(self, system: str, case: str) -> bool:
        """Whether its losses are ours, before the first update and after the last."""
        for figure in ("first_loss", "final_loss"):
            ours, theirs = self.value(OURS, case, figure), self.value(system, case, figure)
            if ours is None or theirs is None:
                continue
            if abs(theirs / ours - 1) > NOISE:
                return False
        return True


def main() -> None:
    PAGE.write_text("\n".join(page(Table(json.loads(FILE.read_text())))) + "\n")
    print(f"wrote {PAGE.relative_to(ROOT)}")


def page(table: Table) -> Iterator[str]:
    found, machine = table.found, table.found["machine"]
    steps = ", ".join(f"{count} of {case}" for case, count in found["steps"].items())
    yield "# Training, measured\n"
    yield (
        f"`make bench-train` at {' and '.join(_commits(table))}, last on {found['date']}: "
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, Python "
        f"{machine['python']}; a matrix product does {found['limits']['gemm_gflop_s']:.0f} "
        f"GFLOP/s. SmolLM2-135M, optimizer steps: {steps}.\n"
    )
    yield ABOUT + "\n"
    for figure in FIGURES:
        yield f"## {figure}\n"
        yield from _table(table, lambda s, c, f=figure: _shown(table.value(s, c, f)))
    yield "## Rounds\n"
    yield from _table(table, lambda s, c: str(table.rounds(s, c) or "-"))
    yield "## Goals\n"
    yield (
        f"A ratio is of the medians of runs that measured both. Of fewer than {ENOUGH} rounds a "
        "goal is met provisionally at most.\n"
    )
    yield "| goal | reached | rounds | met |"
    yield "| --- | ---: | ---: | --- |"
    for name, reached, rounds, met in _goals(table):
        word = "no" if not met else "yes" if rounds >= ENOUGH else "provisionally"
        yield f"| {name} | {reached} | {rounds} | {word} |"


def _commits(table: Table) -> list[str]:
    return list(dict.fromkeys(at for row in table.found["rows"] for at in row["commits"]))


def _table(table: Table, shown: Callable[[str, str], str]) -> Iterator[str]:
    yield "| case | " + " | ".join(table.systems) + " |"
    yield "| --- |" + " ---: |" * len(table.systems)
    for case in table.cases:
        yield f"| {case} | " + " | ".join(shown(system, case) for system in table.systems) + " |"
    yield ""


def _goals(table: Table) -> Iterator[tuple[str, str, int, bool]]:
    """Each with what was reached, of how many rounds, and whether that is enough."""
    for case, peer, times in GOALS:
        found = table.ratio(peer, case, "tok_s")
        if found:
            yield f"{case}: {times:g} times {peer}", f"{found[0]:.2f}", found[1], found[0] >= times
    for case in table.cases:
        others = [s for s in table.systems if s != OURS and s not in TRL and table.fair(s, case)]
        ratios = {peer: found for peer in others if (found := table.ratio(peer, case, "tok_s"))}
        if ratios:
            best = min(ratios, key=lambda peer: ratios[peer][0])
            reached, rounds = ratios[best]
            name = f"{case}: {BEST_PEER:g} times the best other peer, {best}"
            yield name, f"{reached:.2f}", rounds, reached >= BEST_PEER
        share = table.value(OURS, case, "share_of_limit")
        if share is not None:
            rounds = table.rounds(OURS, case)
            yield f"{case}: {LIMIT:.0%} of the limit", f"{share:.0%}", rounds, share >= LIMIT
        memory = table.ratio("trl", case, "peak_mb")
        if memory:
            name = f"{case}: memory no higher than trl's"
            yield name, f"{memory[0]:.2f}", memory[1], memory[0] <= 1


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}" if value < 1 else f"{value:.4g}"


if __name__ == "__main__":
    main()
