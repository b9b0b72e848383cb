"""Two gateway processes at one database, SQLite and PostgreSQL: one promise, whichever is asked."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import httpx
import pytest

from tests.databases import Maker
from tests.gateway.test_process import start
from tests.gateway.test_replays import last, marks, told
from tests.gateway.world import PRICE, PROMPT, World, build_world, until
from trimtab.gateway import keys
from trimtab.gateway.keys import Created, Limits

ASK = {"model": "desk", "prompt": PROMPT, "max_tokens": 2}
# It takes the engine a second; who does not come back within 0.4 ends it.
STREAM = {**ASK, "max_tokens": 20, "stream": True}
NAMED = {"Idempotency-Key": "order-7"}


@dataclass
class Pair:
    """A client for each process; `key` is the one that both have sent since `by`."""

    world: World
    clients: tuple[httpx.Client, httpx.Client]

    def by(self, key: Created) -> tuple[httpx.Client, httpx.Client]:
        for client in self.clients:
            client.headers["Authorization"] = f"Bearer {key.key}"
        return self.clients

    def ended(self, key: Created) -> list[tuple[int, str | None]]:
        """Status and end of the requests of a key that the log has."""
        return [
            (each.status, each.finish_reason)
            for each in self.world.log()
            if each.key_id == key.id and each.model_version
        ]


@pytest.fixture(scope="module")
def pair(
    make_database: Maker, base_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    url = make_database(True).render_as_string(hide_password=False)
    world = build_world(tmp_path_factory.mktemp("pair"), base_folder, url=url)
    with ExitStack() as opened:
        opened.callback(world.database.close)
        listeners = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            started = [*pool.map(lambda listener: start(world, listener), listeners)]
        for process in started:
            opened.enter_context(process)
            opened.callback(process.kill)
        first, second = (
            opened.enter_context(
                httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=20.0)
            )
            for listener in listeners
        )
        yield Pair(world, (first, second))


def test_the_sum_over_the_processes_obeys_the_budget(pair: Pair) -> None:
    one = PRICE.of(pair.world.prompt_tokens, 2)
    limit = one * 6 + one // 2
    key = pair.world.new_key(limit)
    clients = pair.by(key)
    answers = [client.post("/v1/generate", json=ASK) for client in clients]
    assert [answer.status_code for answer in answers] == [200, 200]
    with ThreadPoolExecutor(8) as pool:
        asked = zip(range(16), cycle(clients))
        answers += pool.map(lambda each: each[1].post("/v1/generate", json=ASK), asked)
    assert {answer.status_code for answer in answers} == {200, 402}
    costs = [round(each.json()["cost_usd"] * 1e9) for each in answers if each.status_code == 200]
    after = pair.world.account(key)
    assert sum(costs) == after.spent_nano <= limit
    assert after.held_nano == 0
    assert len(costs) >= 6


def test_a_rate_limit_is_one_for_all_processes(pair: Pair) -> None:
    with pair.world.database.transaction() as connection:
        key = keys.create(connection, "slow", "somebody", limits=Limits(requests_per_minute=4))
    clients = cycle(pair.by(key))
    answers = [next(clients).post("/v1/generate", json=ASK) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 4 + [429]
    assert [answer.headers["ratelimit"].split(";")[1] for answer in answers[:4]] == [
        "r=3",
        "r=2",
        "r=1",
        "r=0",
    ]


def test_an_answer_is_replayed_by_whoever_is_asked(pair: Pair) -> None:
    key = pair.world.new_key()
    first, second = pair.by(key)
    one, two = (client.post("/v1/generate", json=ASK, headers=NAMED) for client in (first, second))
    assert one.json() == two.json()
    assert two.headers["idempotency-replayed"] == "true"
    other = second.post("/v1/generate", json={**ASK, "max_tokens": 1}, headers=NAMED)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    cost = round(one.json()["cost_usd"] * 1e9)
    assert pair.world.account(key).spent_nano == cost == PRICE.of(pair.world.prompt_tokens, 2)
    assert pair.ended(key) == [(200, "length")]


def test_a_stream_goes_on_for_a_client_that_comes_back_to_another_process(pair: Pair) -> None:
    key = pair.world.new_key()
    first, second = pair.by(key)
    with first.stream("POST", "/v1/generate", json=STREAM, headers=NAMED) as response:
        seen = next(response.iter_text())
    busy = second.post("/v1/generate", json=STREAM, headers=NAMED)
    assert (busy.status_code, busy.json()["code"]) == (409, "idempotency_in_flight")
    at = str(marks(seen)[-1])
    resumed = {**NAMED, "Last-Event-ID": at}
    rest = second.post("/v1/generate", json=STREAM, headers=resumed)
    assert told(seen) + told(rest.text) == "yes " * 20
    # It came as it was made, and not all at its end.
    assert rest.text.count("event: token") > 2
    assert last(rest.text)[0] == "done"
    assert pair.ended(key) == [(200, "stop")]
    cost = round(last(rest.text)[1]["cost_usd"] * 1e9)
    assert pair.world.account(key).spent_nano == cost == PRICE.of(pair.world.prompt_tokens, 20)
    # Whole by now, and told again by either.
    again = [client.post("/v1/generate", json=STREAM, headers=resumed) for client in pair.clients]
    assert [told(each.text) for each in again] == [told(rest.text)] * 2


def test_a_stream_that_nobody_comes_back_to_ends_and_says_so_elsewhere(pair: Pair) -> None:
    key = pair.world.new_key()
    first, second = pair.by(key)
    with first.stream("POST", "/v1/generate", json=STREAM, headers=NAMED) as response:
        seen = next(response.iter_text())
    until(lambda: pair.ended(key) == [(499, "cancelled")])
    resumed = {**NAMED, "Last-Event-ID": str(marks(seen)[-1])}
    lost = second.post("/v1/generate", json=STREAM, headers=resumed)
    assert (lost.status_code, lost.json()["code"]) == (409, "stream_lost")
    until(lambda: second.post("/v1/generate", json=ASK, headers=NAMED).status_code == 200)
