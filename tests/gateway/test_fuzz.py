"""Five hundred requests, and frames and streams, of what the campaign (`make test-fuzz`) does ten
thousand of."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.fuzz import Target, fuzz_frames, fuzz_requests, fuzz_streams, target


@pytest.fixture(scope="module")
def to(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("fuzz"), base_folder) as found:
        yield found


def test_requests_get_what_the_document_says(to: Target) -> None:
    fuzz_requests(to, examples=15)
    assert to.cases["requests"] >= 500
    account = to.world.database
    with account.read() as connection:
        held = connection.exec_driver_sql("SELECT sum(held_nano) FROM budgets").scalar()
    assert not held


def test_frames_are_answered_or_end_the_connection(to: Target) -> None:
    fuzz_frames(to, examples=80)
    assert to.client.get("/healthz").status_code == 200


def test_streams_say_what_the_model_said(to: Target) -> None:
    fuzz_streams(to, examples=40)
