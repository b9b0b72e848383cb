"""An answer that nobody hears a part of: what came together is one chunk, and loses nothing."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from trimtab.engine.wire.protocol import (
    Failed,
    Generate,
    Generated,
    Reply,
    decode_call,
    encode_reply,
)
from trimtab.engine.wire.remote import RemoteEngine
from trimtab.errors import EngineError
from trimtab.inference import Chunk, GenerateRequest, Sampling, Usage, complete

CHUNKS = [
    *(Chunk(f"{n} ", (n,), (-n / 8,), top=(((n, -n / 8),),)) for n in range(5)),
    Chunk("", (), (), "stop", Usage(3, 5, 2)),
]


def request(*, whole: bool) -> GenerateRequest:
    return GenerateRequest("v", (1, 2, 3), Sampling(), "g", whole=whole)


async def asked(folder: Path, wanted: GenerateRequest, *told: Chunk | Failed) -> list[Chunk]:
    """What a client hears where the engine says all of it at once."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = decode_call(await reader.readline())
        assert isinstance(call, Generate)
        replies: list[Reply] = [
            Generated(call.id, each) if isinstance(each, Chunk) else Failed(call.id, each.error, "")
            for each in told
        ]
        writer.write(b"".join(map(encode_reply, replies)))
        await reader.read()
        writer.close()
        await writer.wait_closed()
        over.set()

    over = asyncio.Event()
    socket = folder / "engine.sock"
    async with await asyncio.start_unix_server(answer, socket):
        heard = []
        async with aclosing(RemoteEngine(socket).generate(wanted)) as chunks:
            try:
                async for chunk in chunks:
                    heard.append(chunk)
            except EngineError:
                heard.append(Chunk("failed", (), ()))
        await over.wait()
        return heard


def test_what_came_together_is_one_chunk_and_loses_nothing(tmp_path: Path) -> None:
    alone = asyncio.run(asked(tmp_path, request(whole=False), *CHUNKS))
    assert alone == CHUNKS
    [whole] = asyncio.run(asked(tmp_path, request(whole=True), *CHUNKS))

    class Said:
        def __init__(self, chunks: list[Chunk]) -> None:
            self.chunks = chunks

        async def generate(self, request: GenerateRequest):  # type: ignore[no-untyped-def]
            for chunk in self.chunks:
                yield chunk

    said = [asyncio.run(complete(Said(each), request(whole=True))) for each in ([whole], alone)]  # type: ignore[arg-type]
    assert said[0] == said[1]
    assert whole.usage == CHUNKS[-1].usage


@pytest.mark.parametrize("whole", [False, True])
def test_what_was_said_before_a_failure_is_heard_before_it(tmp_path: Path, whole: bool) -> None:
    told = (*CHUNKS[:3], Failed("", "EngineError", ""))
    heard = asyncio.run(asked(tmp_path, request(whole=whole), *told))
    assert heard[-1].text == "failed"
    assert "".join(chunk.text for chunk in heard[:-1]) == "0 1 2 "
