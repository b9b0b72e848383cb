"""What a connection tells of an engine that fails as nobody foresaw."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from trimtab.engine.wire.protocol import (
    MAX_FRAME,
    Call,
    Describe,
    Embed,
    Failed,
    Generate,
    Reply,
    decode_reply,
    encode_call,
)
from trimtab.engine.wire.server import Connection
from trimtab.inference import Chunk, EmbedRequest, GenerateRequest, Sampling, Vector


class Faulty:
    async def capabilities(self) -> None:
        raise RecursionError("maximum recursion depth exceeded")


class Verbose:
    async def embed(self, request: EmbedRequest) -> list[Vector]:
        return [(0.5,) * (MAX_FRAME // 4)]


class Endless:
    """Says one token and goes on."""

    def __init__(self) -> None:
        self.running = 0

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self.running += 1
        try:
            yield Chunk("a", (1,), (-1.0,))
            await asyncio.Event().wait()
        finally:
            self.running -= 1


def replies(engine: Any, folder: Path, calls: Sequence[Call]) -> list[Reply]:
    """What a connection says to calls, one after another."""

    async def ask() -> list[Reply]:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await Connection(engine, reader, writer).serve()

        told = []
        server = await asyncio.start_unix_server(accept, folder / "s")
        async with server, asyncio.timeout(20):
            reader, writer = await asyncio.open_unix_connection(folder / "s")
            for call in calls:
                writer.write(encode_call(call))
                told.append(decode_reply(await reader.readline()))
            writer.close()
        return told

    return asyncio.run(ask())


def test_an_unforeseen_fault_is_the_answer_of_its_call(tmp_path: Path) -> None:
    for id, failed in zip(
        "ab", replies(Faulty(), tmp_path, [Describe("a"), Describe("b")]), strict=True
    ):
        assert isinstance(failed, Failed)
        assert (failed.id, failed.error) == (id, "EngineError")
        assert "RecursionError" in failed.message


def test_an_answer_that_no_frame_holds_is_refused_and_ends_no_other_call(tmp_path: Path) -> None:
    asked = [Embed("long", EmbedRequest("e", ((1,),), "1")), Describe("next")]
    refused, after = replies(Verbose(), tmp_path, asked)
    assert isinstance(refused, Failed)
    assert (refused.id, refused.error) == ("long", "RequestRefused")
    assert isinstance(after, Failed)
    assert after.id == "next"


def test_a_client_that_is_gone_leaves_nothing_that_is_computed(tmp_path: Path) -> None:
    """However it went, and whatever it could not cancel any more."""
    engine = Endless()
    asked = [
        Generate(str(i), GenerateRequest("v", (1,), Sampling(max_tokens=9), str(i)))
        for i in range(3)
    ]

    async def ask() -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await Connection(engine, reader, writer).serve()  # type: ignore[arg-type]

        server = await asyncio.start_unix_server(accept, tmp_path / "s")
        async with server, asyncio.timeout(20):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
            for call in asked:
                writer.write(encode_call(call))
                await reader.readline()
            assert engine.running == len(asked)
            writer.transport.abort()
            while engine.running:
                await asyncio.sleep(0.001)

    asyncio.run(ask())
