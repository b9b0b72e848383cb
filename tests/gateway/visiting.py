"""Requests at a gateway's books, without a socket: many at once, and one at its worst instant."""

import secrets
import time

from tests.gateway.world import PRICE, World
from trimtab.gateway import keys
from trimtab.gateway.catalogue import Served
from trimtab.gateway.keys import Created, Key
from trimtab.gateway.telemetry.tracing import Trace
from trimtab.gateway.visit import Visit
from trimtab.text.chat import ChatFormat

__all__ = ["PRICE", "Visitors"]


class Visitors:
    """Makes visits of one key to the live version of a world."""

    def __init__(self, world: World, key: Created | None = None) -> None:
        with world.database.read() as connection:
            self.key: Key = keys.get(connection, (key or world.key).id)
        chat = ChatFormat.from_folder(world.base_folder)
        self._served = Served(world.adapter, world.adapter.hash, chat, "desk")

    def visit(self) -> Visit:
        return Visit(
            id=f"req_{secrets.token_hex(16)}",
            route="generate",
            key=self.key,
            model="desk",
            trace_id="t",
            trace=Trace.of_header(None),
            session_id=None,
            user_id=None,
            arrived=time.perf_counter(),
            headers={},
            asked=self._served,
            served=self._served,
        )
