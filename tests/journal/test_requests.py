import pytest

from trimtab.errors import NotFound
from trimtab.journal import requests
from trimtab.journal.requests import Answered
from trimtab.store.database import Database

VERSION = "a" * 64


def answered(number: int, **changes: object) -> Answered:
    values: dict[str, object] = {
        "id": f"r{number}",
        "trace_id": "trace",
        "route": "/v1/generate",
        "status": 200,
        "latency_ms": 100.0 + number,
        "deployment": "desk",
        "model_version": VERSION,
        "created_us": 1000 * number,
    }
    return Answered(**(values | changes))  # type: ignore[arg-type]


def test_a_request_comes_back_as_it_was_logged(database: Database) -> None:
    full = answered(
        1,
        session_id="s",
        user_id="u",
        key_id="k",
        runtime="trimtab-0.1.0/cpu/float32/none",
        tier="adapter",
        degraded=True,
        finish_reason="stop",
        prompt_tokens=90,
        completion_tokens=40,
        cached_tokens=12,
        ttft_ms=12.5,
        cost_nano=10**15,
    )
    with database.transaction() as connection:
        requests.record_all(connection, [full])
        assert requests.get(connection, "r1") == full
        with pytest.raises(NotFound):
            requests.get(connection, "r2")


def test_the_recent_ones_come_newest_first(database: Database) -> None:
    with database.transaction(durable=False) as connection:
        requests.record_all(connection, [answered(number) for number in range(5)])
        assert [row.id for row in requests.recent(connection, 2)] == ["r4", "r3"]


def test_outcomes_are_of_a_deployment_or_a_version_since_a_time(database: Database) -> None:
    refused = answered(3, status=402, error_code="budget_exceeded", model_version=None)
    with database.transaction(durable=False) as connection:
        rows = [answered(1), answered(2, deployment="other"), refused, answered(4)]
        requests.record_all(connection, rows)
        everything = [row.status for row in requests.outcomes(connection, deployment="desk")]
        late = requests.outcomes(connection, deployment="desk", since_us=4000)
        answers = requests.outcomes(connection, version=VERSION)
    assert everything == [200, 402, 200]
    assert [row.created_us for row in late] == [4000]
    assert [row.latency_ms for row in answers] == [101.0, 102.0, 104.0]


def test_a_refusal_is_no_answer_of_a_version(database: Database) -> None:
    with database.transaction(durable=False) as connection:
        rows = [answered(1), answered(2, status=503), answered(3, model_version="b" * 64)]
        requests.record_all(connection, rows)
        assert requests.answers_of(connection, VERSION) == 1
        assert requests.answers_of(connection, "c" * 64) == 0
