"""The price table: what is stated, what counts when, and what cannot be stated any more."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.world import PRICE, World, build_world
from tests.ledger.one import reserve
from tests.tiny import build_tokenizer
from trimtab.errors import NotFound, UserError
from trimtab.flows.prices import moment, state, table
from trimtab.journal import requests
from trimtab.journal.requests import Answered
from trimtab.ledger.money import Price
from trimtab.ledger.prices import price_of
from trimtab.ledger.reservation import NEVER_US
from trimtab.registry import encoders
from trimtab.registry.encoders import Encoder
from trimtab.store.clock import now_us

CHEAP = Price(100, 400, 50)
HOUR_US = 3600 * 1_000_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    built = build_world(tmp_path, build_tokenizer(tmp_path / "base"))
    yield built
    built.database.close()


def test_a_deployments_live_version_is_priced_from_a_date_on(world: World) -> None:
    later = now_us() + HOUR_US
    with world.database.transaction() as connection:
        stated = state(connection, "desk", CHEAP, later)
        assert (stated.version, stated.names, stated.state) == (
            world.adapter.hash,
            ("desk",),
            "later",
        )
        assert price_of(connection, world.adapter.hash) == PRICE
        assert price_of(connection, world.adapter.hash, later) == CHEAP
        now = state(connection, world.adapter.hash[:12], Price(1, 2))
        rows = [each for each in table(connection) if each.version == world.adapter.hash]
    assert now.state == "now"
    assert [(each.state, each.price) for each in rows] == [
        ("past", PRICE),
        ("now", Price(1, 2)),
        ("later", CHEAP),
    ]


def test_the_table_begins_with_what_has_a_name(world: World) -> None:
    with world.database.transaction() as connection:
        encoders.add(connection, Encoder("e" * 64, "minilm", world.base_folder, 2, 8))
        state(connection, "minilm", Price(3, 0))
        found = table(connection)
    assert [each.names for each in found] == [("desk",), ("minilm",), (), ()]
    assert {each.state for each in found} == {"now"}


def test_what_was_charged_stays(world: World) -> None:
    past, version = now_us() - HOUR_US, world.adapter.hash
    paid = Answered(
        id="r",
        trace_id="t",
        route="generate",
        status=200,
        latency_ms=1.0,
        model_version=version,
        prompt_tokens=3,
        created_us=past + 1,
    )
    with world.database.transaction() as connection:
        state(connection, "desk", CHEAP, past)
        requests.record_all(connection, [paid])
        with pytest.raises(UserError, match=r"has answered since .*, 1 times"):
            state(connection, "desk", Price(1, 1), past)
        with pytest.raises(UserError, match="has answered since"):
            state(connection, version, Price(1, 1), paid.created_us)
        # Nobody was answered since, and another version was never asked.
        state(connection, "desk", Price(2, 2), paid.created_us + 1)
        state(connection, world.base.hash, Price(2, 2), past)
        reserve(connection, world.key.id, "under way", 10, 1, NEVER_US)
        with pytest.raises(UserError, match="are being answered at the moment"):
            state(connection, world.base.hash, Price(3, 3), past)
        state(connection, world.base.hash, Price(3, 3))


def test_a_name_that_nobody_has_is_told(world: World) -> None:
    with world.database.transaction() as connection, pytest.raises(NotFound) as caught:
        state(connection, "desks", CHEAP)
    assert caught.value.message == "no deployment, encoder or version 'desks'"
    assert caught.value.hint == "deployed here: desk"


@pytest.mark.parametrize(
    ("written", "us"),
    [
        ("2027-01-01", 1_798_761_600_000_000),
        ("2027-01-01T06:00Z", 1_798_783_200_000_000),
        ("2027-01-01T06:00+06:00", 1_798_761_600_000_000),
    ],
)
def test_a_date_is_of_utc_where_it_names_no_zone(written: str, us: int) -> None:
    assert moment(written) == us


@pytest.mark.parametrize("written", ["", "tomorrow", "2027-13-01", "1"])
def test_what_is_no_date_is_refused(written: str) -> None:
    with pytest.raises(UserError, match="is no date"):
        moment(written)
