"""The engine of an encoder, in a process and behind its socket."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.engine.processes import engine_process, stop_engine
from tests.tiny_bert import build_encoder
from trimtab.embed.encoder import Encoder
from trimtab.engine.encoding import EncoderEngine
from trimtab.engine.wire.remote import RemoteEngine
from trimtab.errors import EngineUnavailable, IdentityError, RequestRefused, TrimtabError
from trimtab.inference import (
    EmbedRequest,
    GenerateRequest,
    Priority,
    Sampling,
    ScoreRequest,
    Vector,
    VersionFiles,
)
from trimtab.registry import encoders

INPUTS = ((2, 5, 6, 3), (2, 10, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder(tmp_path_factory.mktemp("encoder"))


def test_a_process_makes_the_vectors_of_its_encoder(folder: Path, tmp_path: Path) -> None:
    known = encoders.read(folder, "tiny").hash

    async def ask() -> None:
        engine = RemoteEngine(tmp_path / "e.sock")
        assert (await engine.capabilities()).context == 24
        found = await asyncio.gather(
            *(engine.embed(EmbedRequest(known, INPUTS, f"{n}")) for n in (1, 2))
        )
        assert found[0] == found[1]
        for got, wanted in zip(found[0], Encoder(folder).encode(INPUTS), strict=True):
            assert got == pytest.approx(wanted, abs=1e-6)
        with pytest.raises(RequestRefused, match="embeddings alone"):
            await engine.score(ScoreRequest("v", (1,), ((2,),), "s"))
        with pytest.raises(RequestRefused, match="embeddings alone"):
            async for _ in engine.generate(GenerateRequest("v", (1,), Sampling(), "g")):
                pass
        with pytest.raises(IdentityError, match="ffffffffffff was asked for"):
            await engine.embed(EmbedRequest("f" * 64, INPUTS, "3"))

    with engine_process(folder, tmp_path / "e.sock", "--encoder") as process:
        asyncio.run(ask())
        assert stop_engine(process) == ("", "")
        assert process.returncode == 0


@pytest.mark.parametrize("inputs", [(), ((),), ((99,),), ((-1,),), ((5,) * 25,), ((5,),) * 2049])
def test_what_it_can_never_embed_is_refused(
    folder: Path, inputs: tuple[tuple[int, ...], ...]
) -> None:
    engine = EncoderEngine(folder)
    known = encoders.read(folder, "tiny").hash
    with pytest.raises(RequestRefused):
        asyncio.run(engine.embed(EmbedRequest(known, inputs, "1")))


def test_it_holds_no_versions_and_stops_when_told(folder: Path) -> None:
    async def ask() -> None:
        engine = EncoderEngine(folder)
        known = encoders.read(folder, "tiny").hash
        files = VersionFiles("v", folder, None, folder, ())
        for refused in (engine.load(files), engine.unload("v")):
            with pytest.raises(TrimtabError):
                await refused
        await engine.drain(5)
        with pytest.raises(EngineUnavailable):
            await engine.embed(EmbedRequest(known, INPUTS, "1"))

    asyncio.run(ask())


def test_what_somebody_waits_for_goes_before_batches(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread is busy until all have come; one that is cancelled meanwhile is not computed."""
    engine, known = EncoderEngine(folder), encoders.read(folder, "tiny").hash
    gate, encode, computed = threading.Event(), engine._encoder.encode, list[int]()

    def slow(inputs: Sequence[tuple[int, ...]]) -> list[Vector]:
        gate.wait(10)
        computed.append(inputs[0][0])
        return encode(inputs)

    monkeypatch.setattr(engine._encoder, "encode", slow)

    async def ask() -> None:
        priorities: list[Priority] = ["batch", "shadow", "batch", "interactive", "interactive"]
        asking = [
            asyncio.create_task(engine.embed(EmbedRequest(known, ((n,),), f"{n}", priority)))
            for n, priority in enumerate(priorities)
        ]
        await asyncio.sleep(0)
        asking[3].cancel()
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*asking, return_exceptions=True)
        assert (await engine.capabilities()).priority
        await engine.drain(5)

    asyncio.run(ask())
    assert computed == [0, 4, 2, 1]


def test_a_drain_that_takes_too_long_ends_what_waits(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, known = EncoderEngine(folder), encoders.read(folder, "tiny").hash
    gate = threading.Event()
    monkeypatch.setattr(engine._encoder, "encode", lambda inputs: gate.wait(10) and [])

    async def ask() -> None:
        first, second = (
            asyncio.create_task(engine.embed(EmbedRequest(known, INPUTS, f"{n}"))) for n in "ab"
        )
        await asyncio.sleep(0)
        await engine.drain(0.05)
        with pytest.raises(asyncio.CancelledError):
            await second
        gate.set()
        assert await first == []

    asyncio.run(ask())
