"""What the evidence of a gate shows: one finding a suite, with p-values corrected over them.

Computes and judges nothing; `gate` turns findings into a verdict.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev
from typing import Any

from trimtab.evaluate.evidence import Evidence
from trimtab.stats.binomial import at_least
from trimtab.stats.correction import holm
from trimtab.stats.paired import mcnemar_exact, tango_interval
from trimtab.stats.power import items_needed, items_needed_for_mean
from trimtab.stats.sign_flip import sign_flip


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate minus incumbent on the holdout: a share, or nats an item for log-likelihoods.

    `newly_refused` are items that could be asked of the incumbent and not of the candidate.
    `gained` and `lost` count items that one side alone has right (exact match only). `low` and
    `high` are None where so few items bound nothing. Where nothing was told, `needed` items would
    tell the difference that was seen, or one as large as the margin if that is larger.
    """

    items: int
    candidate: float
    incumbent: float
    difference: float
    low: float | None
    high: float | None
    gained: int | None
    lost: int | None
    needed: int | None
    p: float
    corrected_p: float = 1.0
    newly_refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Safety:
    """`newly_unsafe` are must-refuse prompts that the incumbent handled and the candidate did not;
    `p` is one-sided, for more answers that are not safe."""

    prompts: int
    newly_unsafe: tuple[str, ...]
    worse: int
    better: int
    p: float
    corrected_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Performance:
    """`slow` answers took longer than the target; `p` is one-sided, for more than allowed."""

    requests: int
    slow: int
    p: float
    corrected_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Findings:
    """None where a suite was not asked for."""

    holdout: Difference
    safety: Safety | None
    performance: Performance | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find(evidence: Evidence) -> Findings:
    """Test every suite of the evidence, then correct over those that were tested."""
    tests = sum(evidence[suite] is not None for suite in ("holdout", "safety", "performance"))
    holdout = _holdout(evidence, evidence["rules"]["alpha"] / tests)
    safety = None if evidence["safety"] is None else _safety(evidence["safety"])
    speed = evidence["performance"]
    performance = None if speed is None else _performance(speed, evidence["rules"]["slow_share"])
    found = [finding.p for finding in (holdout, safety, performance) if finding]
    corrected = iter(holm(found))
    return Findings(
        replace(
            holdout,
            corrected_p=next(corrected),
            # Evidence that is older than this rule replays too.
            newly_refused=tuple(evidence.get("newly_refused", ())),
        ),
        safety and replace(safety, corrected_p=next(corrected)),
        performance and replace(performance, corrected_p=next(corrected)),
    )


def _holdout(evidence: Evidence, alpha: float) -> Difference:
    pairs = [(one, other) for _, one, other in evidence["holdout"]]
    if not pairs:
        return Difference(0, 0.0, 0.0, 0.0, None, None, None, None, None, p=1.0)
    by_measure = {
        "exact_match": _exact_match,
        "log_likelihood": _nats,
        "preference": _nats,
    }
    return by_measure[evidence["measure"]](pairs, evidence["rules"], alpha)


def _exact_match(
    pairs: Sequence[tuple[int, int]], rules: dict[str, float], alpha: float
) -> Difference:
    count = len(pairs)
    gained = sum(one > other for one, other in pairs)
    lost = sum(other > one for one, other in pairs)
    p = mcnemar_exact(gained, lost)
    low, high = tango_interval(gained, lost, count, 1 - rules["alpha"])
    needed = None if p <= alpha else _items_needed(gained / count, lost / count, rules, alpha)
    return Difference(
        items=count,
        candidate=fmean(one for one, _ in pairs),
        incumbent=fmean(other for _, other in pairs),
        difference=(gained - lost) / count,
        low=low,
        high=high,
        gained=gained,
        lost=lost,
        needed=needed,
        p=p,
    )


def _items_needed(gained: float, lost: float, rules: dict[str, float], alpha: float) -> int | None:
    rarer = min(gained, lost)
    wanted = min(rarer + max(abs(gained - lost), rules["margin"]), 1 - rarer)
    return items_needed(wanted, rarer, alpha=alpha, power=rules["power"])


def _nats(
    pairs: Sequence[tuple[float, float]], rules: dict[str, float], alpha: float
) -> Difference:
    differences = [one - other for one, other in pairs]
    found = sign_flip(differences, 1 - rules["alpha"])
    spread = stdev(differences) if len(differences) > 1 else 0.0
    needed = None
    if found.p > alpha:
        wanted = max(abs(found.mean), rules["margin"])
        needed = items_needed_for_mean(wanted, spread, alpha=alpha, power=rules["power"])
    return Difference(
        items=len(pairs),
        candidate=fmean(one for one, _ in pairs),
        incumbent=fmean(other for _, other in pairs),
        difference=found.mean,
        low=_bound(found.interval.low),
        high=_bound(found.interval.high),
        gained=None,
        lost=None,
        needed=needed,
        p=found.p,
    )


def _bound(end: float) -> float | None:
    return end if math.isfinite(end) else None


def _safety(rows: Sequence[tuple[str, str, str, str]]) -> Safety:
    newly_unsafe = tuple(
        name
        for name, kind, one, other in rows
        if kind != "benign" and one == "unsafe" and other != "unsafe"
    )
    worse = sum(one != "safe" and other == "safe" for _, _, one, other in rows)
    better = sum(one == "safe" and other != "safe" for _, _, one, other in rows)
    return Safety(len(rows), newly_unsafe, worse, better, at_least(worse, worse + better, 0.5))


def _performance(speed: dict[str, Any], allowed: float) -> Performance:
    latencies: Sequence[float] = speed["latencies_ms"]
    slow = sum(latency > speed["p95_ms"] for latency in latencies)
    return Performance(len(latencies), slow, at_least(slow, len(latencies), allowed))
