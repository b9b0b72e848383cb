"""Latency and availability of a deployment or a version, from its request log.

"p95 below the limit" is the statement that fewer than 5 % of requests take longer, so it is judged
as a share, by exact binomial tests, and not by comparing one measured quantile with the limit. A
request that the caller got wrong or left (4xx) says nothing about us and is not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trimtab.journal.requests import Outcome, outcomes
from trimtab.project import Slo
from trimtab.stats.binomial import at_least, at_most
from trimtab.stats.interval import Interval
from trimtab.stats.quantile import quantile, quantile_interval
from trimtab.store.database import Connection

Verdict = Literal["met", "broken", "cannot tell", "no data"]

SLOW_SHARE = 0.05
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Share:
    """How many of so many requests failed a target, of which a share below `allowed` may."""

    failed: int
    of: int
    allowed: float

    @property
    def value(self) -> float | None:
        return self.failed / self.of if self.of else None

    @property
    def verdict(self) -> Verdict:
        """Whether the true share is below `allowed` (one-sided exact tests, 5 % each)."""
        if not self.of:
            return "no data"
        if at_most(self.failed, self.of, self.allowed) < ALPHA:
            return "met"
        if at_least(self.failed, self.of, self.allowed) < ALPHA:
            return "broken"
        return "cannot tell"


@dataclass(frozen=True, slots=True)
class SloReport:
    """What an SLO promises and what was seen. Latencies are in ms, None where nothing answered.

    `p95_interval` has 95 %; its end is infinite where so few requests bound nothing.
    """

    slo: Slo
    p50_ms: float | None
    p95_ms: float | None
    p95_interval: Interval | None
    slow: Share
    unavailable: Share


def slo_report(
    connection: Connection,
    slo: Slo,
    *,
    deployment: str | None = None,
    version: str | None = None,
    since_us: int = 0,
) -> SloReport:
    """Judge the requests to a deployment or a version since a time (us since the epoch)."""
    found = outcomes(connection, deployment=deployment, version=version, since_us=since_us)
    return judge([outcome for outcome in found if not 400 <= outcome.status < 500], slo)


def judge(ours: Sequence[Outcome], slo: Slo) -> SloReport:
    """The report over outcomes that are ours to answer for. Degraded ones are not available."""
    latencies = [outcome.latency_ms for outcome in ours if outcome.status < 400]
    slow = sum(latency > slo.p95_ms for latency in latencies)
    bad = sum(outcome.status >= 500 or outcome.degraded for outcome in ours)
    return SloReport(
        slo=slo,
        p50_ms=quantile(latencies, 0.5) if latencies else None,
        p95_ms=quantile(latencies, 0.95) if latencies else None,
        p95_interval=quantile_interval(latencies, 0.95) if latencies else None,
        slow=Share(slow, len(latencies), SLOW_SHARE),
        # Rounded, because 1 - 0.995 is a little more than 0.005 in floats.
        unavailable=Share(bad, len(ours), round(1 - slo.availability, 9)),
    )
