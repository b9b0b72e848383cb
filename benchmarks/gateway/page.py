"""The page of the gateway's benchmark, from its file alone: goals first, met and missed alike."""

from collections.abc import Iterator
from typing import Any

Figures = dict[tuple[str, str, str], float | None]


def page(found: dict[str, Any]) -> str:
    machine = found["machine"]
    figures: Figures = {
        (row["system"], row["case"], row["figure"]): row["value"] for row in found["rows"]
    }
    lines = [
        "# What the gateway adds, measured",
        "",
        f"`make bench-gateway` at {found['commit']} on {found['date']}: {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['memory_gb']} GB, Python {machine['python']}. "
        f"{found['workers']} worker processes each; load, upstream and gateway share the cores, "
        "and the machine is shared too. Medians of interleaved rounds; every round is in "
        "[gateway.json](gateway.json).",
        "",
        "Trimtab has keys, rate limits, budgets on three levels, ledger and request log on.",
        "LiteLLM 1.106.2 has its master key alone: the rest needs PostgreSQL and a download at run",
        "time.",
        "",
        "| goal | measured | |",
        "| --- | ---: | --- |",
        *goals(found["rows"], figures),
        "",
        "| case | figure | unit | Trimtab | LiteLLM |",
        "| --- | --- | --- | ---: | ---: |",
        *_rows(found["rows"], figures),
        "",
        "`added_*` is a quantile through the gateway less the same quantile of direct calls in the",
        "same round, at an open loop with an upstream that takes 100 ms. A dash: not every request",
        "was answered within 30 s, at this rate or a lower one. Memory is read after as many",
        "requests as the last row tells; what it has grown by counts from the end of the rounds.",
        "",
    ]
    return "\n".join(lines)


def goals(rows: list[dict[str, Any]], figures: Figures) -> Iterator[str]:
    """One row a goal of the project's own. A ratio is of medians, and beside it stand the least and
    the most of the rounds; it meets its goal where every round does."""
    rounds = {(row["system"], row["case"], row["figure"]): row["repetitions"] for row in rows}
    for case, figure in (("json/c32", "rps"), ("sse/c32", "events_s")):
        ours, theirs = (
            figures.get(("trimtab", case, figure)),
            figures.get(("litellm", case, figure)),
        )
        what = f"20 x LiteLLM's `{figure}` at {case}"
        if not ours or not theirs:
            yield f"| {what} | - | missed |"
            continue
        pairs = (rounds[name, case, figure] for name in ("trimtab", "litellm"))
        each = [mine / other for mine, other in zip(*pairs, strict=True)]
        met = "met" if min(each) >= 20 else "missed" if max(each) < 20 else "not in every round"
        yield f"| {what} | {ours / theirs:.1f} x ({min(each):.1f} to {max(each):.1f}) | {met} |"
    for figure, most in (("added_p50_ms", 2), ("added_p99_ms", 10)):
        value = figures.get(("trimtab", "open/r500", figure))
        yield _goal(f"`{figure}` below {most} ms at open/r500", value, most, " ms")
    grown = figures.get(("trimtab", "json/c32", "rss_grown_mb"))
    yield _goal("memory that does not grow with requests", grown, 10, " MB")


def _goal(what: str, value: float | None, most: float, unit: str) -> str:
    if value is None:
        return f"| {what} | - | missed |"
    return f"| {what} | {value:.1f}{unit} | {'met' if value < most else 'missed'} |"


def _rows(rows: list[dict[str, Any]], figures: Figures) -> Iterator[str]:
    units = {(row["case"], row["figure"]): row["unit"] for row in rows}
    for (case, figure), unit in units.items():
        ours, theirs = (figures.get((name, case, figure)) for name in ("trimtab", "litellm"))
        yield f"| {case} | {figure} | {unit} | {_shown(ours)} | {_shown(theirs)} |"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"
