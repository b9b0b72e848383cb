"""What the computing thread says arrives in order, and wakes who waits once a step."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from trimtab.engine.jobs import Mailbox, together


def test_what_is_put_together_arrives_together(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> tuple[list[Any], int]:
        loop = asyncio.get_running_loop()
        woken: list[object] = []
        call = loop.call_soon_threadsafe

        def counted(*arguments: Any) -> Any:
            woken.append(arguments)
            return call(*arguments)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        one, other = Mailbox(), Mailbox()

        def step() -> None:
            with suppress(ZeroDivisionError), together():
                one.put(1)
                other.put(2)
                one.put(3)
                assert not woken
                # A fault between them holds nothing back.
                raise ZeroDivisionError
            assert len(woken) == 1
            one.put(4)

        await asyncio.to_thread(step)
        return [await one.get(), await other.get(), await one.get(), await one.get()], len(woken)

    items, _ = asyncio.run(run())
    assert items == [1, 2, 3, 4]


def test_an_event_loop_that_ended_takes_nothing() -> None:
    async def made() -> Mailbox:
        return Mailbox()

    ended = asyncio.run(made())
    with together():
        ended.put(1)
    ended.put(2)
