"""What a gate decides on: paired measurements, as plain JSON that is stored with the verdict.

Everything the verdict depends on is in here, so that `gate.decide` replays it years later without
a model, a database or the reports. Knows no statistics.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal

from trimtab.errors import DataError
from trimtab.evaluate.holdout import HoldoutItem
from trimtab.evaluate.performance import PerformanceItem
from trimtab.evaluate.report import M, Report
from trimtab.evaluate.safety import SafetyItem

# A loss that is small enough to be called none: in points of exact match, as a share of the
# incumbent's own mean log-likelihood, and in nats of the margin between two answers.
MARGIN = {"exact_match": 0.05, "log_likelihood": 0.01, "preference": 0.1}
POWER = 0.8
SLOW_SHARE = 0.05

Measure = Literal["exact_match", "log_likelihood", "preference"]
Evidence = dict[str, Any]
SafetyPair = tuple[Report[SafetyItem], Report[SafetyItem]]


def gather(
    candidate: Report[HoldoutItem],
    incumbent: Report[HoldoutItem],
    *,
    measure: Measure,
    safety: SafetyPair | None = None,
    performance: Report[PerformanceItem] | None = None,
    p95_ms: float,
    alpha: float = 0.05,
) -> Evidence:
    """Pair the reports of a candidate and an incumbent; `safety` is (candidate, incumbent) too.

    Raises DataError where two reports do not hold the same items under the same settings, and
    where a safety or performance report is of another version than the holdout's.
    """
    _same_version(candidate, safety[0] if safety else None, performance)
    _same_version(incumbent, safety[1] if safety else None)
    holdout = _holdout(candidate, incumbent, measure)
    return {
        "measure": measure,
        "rules": {
            "alpha": alpha,
            "margin": _margin(holdout, measure),
            "power": POWER,
            "slow_share": SLOW_SHARE,
        },
        "candidate": {"version": candidate.version, "runtime": candidate.runtime},
        "incumbent": {"version": incumbent.version, "runtime": incumbent.runtime},
        "reports": sorted(
            report.hash for report in (candidate, incumbent, *(safety or ()), performance) if report
        ),
        "holdout": holdout,
        "newly_refused": _newly_refused(candidate, incumbent),
        "safety": _safety(*safety) if safety else None,
        "performance": _performance(performance, p95_ms) if performance else None,
    }


def _holdout(
    candidate: Report[HoldoutItem], incumbent: Report[HoldoutItem], measure: Measure
) -> list[list[Any]]:
    """Where log-likelihoods decide, items that one side could not be asked are left out.

    Raises DataError where preferences are to decide and an item has no rejected answer.
    """
    pairs = _pairs(candidate, incumbent)
    if measure == "exact_match":
        return [[one.id, int(one.exact), int(other.exact)] for one, other in pairs]
    asked = [(one, other) for one, other in pairs if not (one.error or other.error)]
    if measure == "log_likelihood":
        return [[one.id, one.log_likelihood, other.log_likelihood] for one, other in asked]
    if any(one.margin is None for one, _ in asked):
        raise DataError(
            "evaluate.gate is preference, and held-out records have no rejected answer",
            hint="set evaluate.gate to exact_match or log_likelihood",
        )
    return [[one.id, one.margin, other.margin] for one, other in asked]


def _newly_refused(candidate: Report[HoldoutItem], incumbent: Report[HoldoutItem]) -> list[str]:
    """Items that the engine refused the candidate alone."""
    pairs = _pairs(candidate, incumbent)
    return [one.id for one, other in pairs if one.error and not other.error]


def _margin(holdout: Sequence[Sequence[Any]], measure: Measure) -> float:
    """In the measure's unit."""
    if measure != "log_likelihood" or not holdout:
        return MARGIN[measure]
    return MARGIN[measure] * abs(fmean(other for _, _, other in holdout))


def _safety(candidate: Report[SafetyItem], incumbent: Report[SafetyItem]) -> list[list[Any]]:
    pairs = _pairs(candidate, incumbent)
    return [[one.id, one.kind, one.outcome, other.outcome] for one, other in pairs]


def _performance(report: Report[PerformanceItem], p95_ms: float) -> dict[str, Any]:
    return {"p95_ms": p95_ms, "latencies_ms": [item.latency_ms for item in report.items]}


def _pairs(candidate: Report[M], incumbent: Report[M]) -> list[tuple[M, M]]:
    names = (candidate.suite, incumbent.suite)
    if candidate.suite != incumbent.suite:
        raise DataError(f"reports of two suites cannot be paired: {names[0]} and {names[1]}")
    if candidate.summary["settings"] != incumbent.summary["settings"]:
        raise DataError(
            f"{candidate.suite}: candidate and incumbent were evaluated under different settings",
            hint="evaluate both again with the project file as it is now",
        )
    ones = {item.id: item for item in candidate.items}
    others = {item.id: item for item in incumbent.items}
    _same_ids(candidate.suite, candidate.items, incumbent.items)
    return [(ones[key], others[key]) for key in sorted(ones)]


def _same_ids(suite: str, ones: Sequence[M], others: Sequence[M]) -> None:
    left, right = [item.id for item in ones], [item.id for item in others]
    hint = "evaluate both versions on the same evaluation set"
    for ids in (left, right):
        if len(set(ids)) != len(ids):
            raise DataError(f"{suite}: an item was answered twice", hint=hint)
    apart = sorted(set(left) ^ set(right))
    if apart:
        raise DataError(
            f"{suite}: candidate and incumbent answered different items: {apart[0][:12]}"
            f" ({len(apart)} in all) is on one side only",
            hint=hint,
        )


def _same_version(holdout: Report[HoldoutItem], *reports: "Report[Any] | None") -> None:
    for report in reports:
        if report and (report.version, report.runtime) != (holdout.version, holdout.runtime):
            raise DataError(
                f"the {report.suite} report is of {report.version[:12]} on {report.runtime}, the"
                f" holdout report of {holdout.version[:12]} on {holdout.runtime}",
                hint="evaluate all suites on one version and one runtime",
            )
