"""What a connection tells of an engine that fails as nobody foresaw."""

import asyncio
from pathlib import Path
from typing import Any

from trimtab.engine.protocol import Describe, Failed, decode_reply, encode_call
from trimtab.engine.server import Connection


class Faulty:
    async def capabilities(self) -> None:
        raise RecursionError("maximum recursion depth exceeded")


def test_an_unforeseen_fault_is_the_answer_of_its_call(tmp_path: Path) -> None:
    faulty: Any = Faulty()

    async def ask() -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await Connection(faulty, reader, writer).serve()

        server = await asyncio.start_unix_server(accept, tmp_path / "s")
        async with server, asyncio.timeout(20):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
            for id in ("a", "b"):
                writer.write(encode_call(Describe(id)))
                failed = decode_reply(await reader.readline())
                assert isinstance(failed, Failed)
                assert (failed.id, failed.error) == (id, "EngineError")
                assert "RecursionError" in failed.message
            writer.close()

    asyncio.run(ask())
