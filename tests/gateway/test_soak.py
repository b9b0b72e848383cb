"""Many requests leave a gateway as it was: memory, descriptors, tasks and threads are flat."""

import asyncio
import gc
import threading
import weakref
from collections import Counter
from itertools import pairwise

import httpx
import pytest

from tests.faults.test_upstream import descriptors
from tests.gateway.echo import Echo
from tests.gateway.world import PROMPT, World, until
from trimtab.gateway.telemetry import refusals

ASK = {"model": "desk", "prompt": PROMPT, "max_tokens": 5}


def ask(client: httpx.Client, rounds: int) -> None:
    """Every way of asking, and every way of being refused."""
    headers = client.headers
    for number in range(rounds):
        named = {**headers, "Idempotency-Key": f"n{number % 7}"}
        client.post("/v1/generate", json=ASK)
        client.post("/v1/generate", json={**ASK, "stream": True})
        client.post("/v1/generate", json={**ASK, "stream": True}, headers=named)
        client.post("/v1/score", json={"model": "desk", "prompt": PROMPT, "completions": ["yes"]})
        client.post(
            "/v1/chat/completions",
            json={"model": "desk", "messages": [{"role": "user", "content": PROMPT}]},
        )
        client.post("/v1/generate", json={**ASK, "model": f"nobody-{number}"})
        client.post("/v1/generate", json={**ASK, "max_tokens": 0})
        client.get("/v1/models", headers={"Authorization": f"Bearer tt_wrong_{number}"})


def living() -> tuple[Counter[str], int, int, int]:
    """Objects that the collector knows by their type, descriptors, tasks of every loop, threads.

    Weak references to what is gone are none: each connection of SQLite keeps up to two hundred,
    one for every cursor it had, and drops them all at once.
    """
    gc.collect()
    # By its type: some objects of other libraries are computed when they are asked for their class.
    found = [each for each in gc.get_objects() if not _is_dead(each)]
    tasks = sum(issubclass(type(each), asyncio.Task) for each in found)
    kinds = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in found)
    return kinds, descriptors(), tasks, threading.active_count()


def _is_dead(found: object) -> bool:
    return issubclass(type(found), weakref.ref) and found() is None  # type: ignore[operator]


@pytest.mark.parametrize("rounds", [15])
def test_many_requests_leave_nothing_behind(
    world: World,
    client: httpx.Client,
    echo: Echo,
    rounds: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refusals, "GATHER_S", 0.05)

    def settled(asked: int) -> bool:
        """Nothing is held, and the refusals, three a round, are written too."""
        refused = sum(each.status in (401, 404, 422) for each in world.log())
        return world.account().held_nano == 0 and refused == 3 * asked

    def after(times: int) -> tuple[Counter[str], int, int, int]:
        ask(client, rounds)
        until(lambda: settled(times * rounds))
        echo.asked.clear()
        return living()

    counts = [after(times) for times in range(1, 5)]  # what is made once is made in the first
    objects, files, tasks, threads = zip(*counts, strict=True)
    assert tasks[-1] == tasks[0]
    # The pool of threads has a bound of its own, and may not have reached it in the first round.
    assert threads[-1] <= threads[0] + 2
    assert files[-1] <= files[0] + 2
    # One object that one way of asking leaves behind would be `rounds` more each time, give or take
    # what comes and goes.
    growth = [more - before for before, more in pairwise(objects)]
    grown = {kind: [each[kind] for each in growth] for kind in objects[-1]}
    assert not {kind: by for kind, by in grown.items() if min(by) > rounds / 2}
