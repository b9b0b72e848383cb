"""An engine that speaks the real protocol over its real socket, and counts what it was asked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from tests.gateway.echo import Echo
from trimtab.engine.local import LocalEngine
from trimtab.engine.wire.protocol import MAX_FRAME
from trimtab.engine.wire.server import Connection


@asynccontextmanager
async def engine_at(socket: Path, engine: Echo | LocalEngine) -> AsyncIterator[None]:
    """Serve `engine` at a Unix socket, with the engine process's own server."""
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        # The server asks of its engine only what the Engine protocol has.
        await Connection(cast(LocalEngine, engine), reader, writer).serve()
        connections.discard(task)

    server = await asyncio.start_unix_server(accept, socket, limit=MAX_FRAME)
    try:
        yield
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
