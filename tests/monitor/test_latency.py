import math
from pathlib import Path

import pytest
from scipy.stats import binomtest

from trimtab.journal.requests import Answered, Outcome, record_all
from trimtab.monitor.latency import Share, judge, slo_report
from trimtab.project import Slo
from trimtab.store.database import Database

SLO = Slo(p95_ms=1200, availability=0.995)


def outcomes(fast: int, slow: int = 0, failed: int = 0, degraded: int = 0) -> list[Outcome]:
    return [
        *(Outcome(200, False, 100.0 + number, 0) for number in range(fast)),
        *(Outcome(200, False, 1201.0, 0) for _ in range(slow)),
        *(Outcome(503, False, 1.0, 0) for _ in range(failed)),
        *(Outcome(200, True, 100.0, 0) for _ in range(degraded)),
    ]


def test_no_requests_are_no_data_and_no_success() -> None:
    report = judge([], SLO)
    assert (report.p50_ms, report.p95_ms, report.p95_interval) == (None, None, None)
    assert (report.slow.verdict, report.unavailable.verdict) == ("no data", "no data")
    assert (report.slow.value, report.unavailable.value) == (None, None)


@pytest.mark.parametrize(
    ("fast", "slow", "verdict"),
    [
        (58, 0, "cannot tell"),
        (59, 0, "met"),
        (95, 5, "cannot tell"),
        (1000, 30, "met"),
        (91, 9, "cannot tell"),
        (90, 10, "broken"),
        (0, 1, "cannot tell"),
        (0, 2, "broken"),
    ],
)
def test_p95_is_a_statement_about_a_share(fast: int, slow: int, verdict: str) -> None:
    report = judge(outcomes(fast, slow), SLO)
    assert report.slow.verdict == verdict


@pytest.mark.parametrize("failed", range(0, 40, 3))
def test_the_verdict_is_the_exact_binomial_test(failed: int) -> None:
    share = Share(failed, 300, 0.05)
    below = binomtest(failed, 300, 0.05, alternative="less").pvalue < 0.05
    above = binomtest(failed, 300, 0.05, alternative="greater").pvalue < 0.05
    assert share.verdict == ("met" if below else "broken" if above else "cannot tell")


def test_the_limit_itself_is_not_slow() -> None:
    assert judge([Outcome(200, False, 1200.0, 0)], SLO).slow.failed == 0


def test_failed_and_degraded_answers_are_not_available() -> None:
    report = judge(outcomes(fast=90, failed=6, degraded=4), SLO)
    assert (report.unavailable.failed, report.unavailable.of) == (10, 100)
    assert report.unavailable.verdict == "broken"
    assert report.unavailable.value == 0.1
    # A refusal in a millisecond is no fast answer.
    assert report.slow.of == 94


def test_a_promise_without_exception_is_broken_by_one() -> None:
    always = Slo(p95_ms=1200, availability=1)
    assert judge(outcomes(1000), always).unavailable.verdict == "cannot tell"
    assert judge(outcomes(1000, failed=1), always).unavailable.verdict == "broken"


def test_quantiles_are_measured_values_with_their_interval() -> None:
    report = judge(outcomes(fast=100), SLO)
    assert (report.p50_ms, report.p95_ms) == (149.0, 194.0)
    assert report.p95_interval is not None
    assert report.p95_interval.low < 194.0 < report.p95_interval.high < math.inf


def test_the_log_is_read_for_one_deployment_or_version_since_a_time(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'trimtab.db'}")
    database.migrate()
    rows = [
        ("desk", "a" * 64, 200, 100.0, 10),
        ("desk", "b" * 64, 200, 300.0, 20),
        ("other", "b" * 64, 200, 500.0, 20),
        ("desk", "b" * 64, 503, 5.0, 30),
        ("desk", "b" * 64, 404, 5.0, 30),
        ("desk", "b" * 64, 499, 9999.0, 30),
    ]
    with database.transaction() as connection:
        for number, (deployment, version, status, latency_ms, at) in enumerate(rows):
            answered = Answered(
                id=str(number),
                trace_id="t",
                route="generate",
                status=status,
                latency_ms=latency_ms,
                deployment=deployment,
                model_version=version,
                created_us=at,
            )
            record_all(connection, [answered])
        by_name = slo_report(connection, SLO, deployment="desk")
        by_version = slo_report(connection, SLO, version="b" * 64, since_us=20)
        nothing = slo_report(connection, SLO, deployment="desk", since_us=40)
    database.close()
    assert (by_name.p50_ms, by_name.p95_ms) == (100.0, 300.0)
    assert (by_name.unavailable.failed, by_name.unavailable.of) == (1, 3)
    assert (by_version.p50_ms, by_version.unavailable.of) == (300.0, 3)
    assert nothing.slow.verdict == "no data"
