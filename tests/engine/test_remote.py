"""An engine over its socket: many clients, some of them bad, and answers that never mix."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.conftest import VersionOf
from tests.engine.processes import DEADLINE_S, engine_process, start_engine, stop_engine
from tests.engine.reference import Reference
from trimtab.engine.wire.protocol import (
    MAX_FRAME,
    Describe,
    Described,
    Failed,
    decode_reply,
    encode_call,
)
from trimtab.engine.wire.remote import RemoteEngine
from trimtab.errors import IdentityError, RequestRefused, VersionNotLoaded
from trimtab.inference import GenerateRequest, Sampling, ScoreRequest, VersionFiles, complete

NAMES = ("base", "red", "blue")
PROMPT = (17, 40, 5, 99, 250, 31)
COUNT = 6


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Iterator[Path]:
    """One process for all tests of this module: what one of them breaks, the next ones feel."""
    path = tmp_path_factory.mktemp("engine") / "engine.sock"
    with engine_process(base, path) as process:
        yield path
        assert stop_engine(process)[0] == "", "only the ready line goes to stdout"


@pytest.fixture(scope="module")
def expected(base: Path, adapters: dict[str, Path]) -> dict[str, tuple[int, ...]]:
    return {
        name: Reference(base, adapters.get(name)).greedy(PROMPT, COUNT).tokens for name in NAMES
    }


def request(version: str, max_tokens: int = COUNT, id: str = "1") -> GenerateRequest:
    return GenerateRequest(version, PROMPT, Sampling(max_tokens=max_tokens), id)


def endless(version_of: VersionOf) -> VersionFiles:
    return replace(version_of("base"), version="endless", stop_tokens=())


def test_streams_scores_and_capabilities_pass_the_socket_whole(
    socket: Path, version_of: VersionOf, base: Path, adapters: dict[str, Path]
) -> None:
    async def ask() -> None:
        engine = RemoteEngine(socket)
        await engine.load(version_of("red"))
        answer = await complete(engine, request("red"))
        said = Reference(base, adapters["red"]).greedy(PROMPT, COUNT)
        assert answer.tokens == said.tokens
        tolerance = 1e-4 if (await engine.capabilities()).runtime.dtype == "float32" else 0.1
        assert answer.logprobs == pytest.approx(said.logprobs, abs=tolerance)
        assert answer.usage.prompt == len(PROMPT)
        [score, empty] = await engine.score(ScoreRequest("red", PROMPT, (answer.tokens, ()), "2"))
        assert score.logprobs == pytest.approx(answer.logprobs, abs=tolerance)
        assert empty.total == 0

    asyncio.run(ask())


def test_versions_swapped_under_traffic_never_mix(
    socket: Path, version_of: VersionOf, expected: dict[str, tuple[int, ...]]
) -> None:
    async def traffic() -> None:
        engine = RemoteEngine(socket)
        for name in NAMES:
            await engine.load(version_of(name))

        async def ask(name: str) -> None:
            answered = 0
            while answered < 8:
                try:
                    answer = await complete(engine, request(name))
                except VersionNotLoaded:
                    await asyncio.sleep(0.01)
                else:
                    assert answer.tokens == expected[name]
                    answered += 1

        async def swap() -> None:
            for name in ("red", "blue", "red", "blue"):
                await engine.unload(name)
                await asyncio.sleep(0.01)
                await engine.load(version_of(name))

        await asyncio.gather(swap(), *(ask(name) for name in NAMES * 3))

    asyncio.run(traffic())


def test_a_refused_request_says_why_and_the_others_go_on(
    socket: Path, version_of: VersionOf, expected: dict[str, tuple[int, ...]]
) -> None:
    bad = {
        "empty": replace(request("base"), prompt=()),
        "vocabulary": replace(request("base"), prompt=(10**6,)),
        "tokens together": replace(request("base"), prompt=(7,) * 512),
        "max_tokens": request("base", max_tokens=0),
        "temperature": replace(request("base"), sampling=Sampling(temperature=-1.0)),
        "top_p": replace(request("base"), sampling=Sampling(top_p=0.0)),
        "stop string": replace(request("base"), sampling=Sampling(stop=("",))),
    }

    async def ask() -> None:
        engine = RemoteEngine(socket)
        await engine.load(version_of("base"))
        answers = await asyncio.gather(
            complete(engine, request("base")),
            *(complete(engine, each) for each in bad.values()),
            return_exceptions=True,
        )
        assert not isinstance(answers[0], BaseException)
        assert answers[0].tokens == expected["base"]
        for word, error in zip(bad, answers[1:], strict=True):
            assert isinstance(error, RequestRefused)
            assert word in error.message
            assert error.hint

    asyncio.run(ask())


def test_an_unknown_version_is_named(socket: Path) -> None:
    with pytest.raises(VersionNotLoaded, match="nobody"):
        asyncio.run(complete(RemoteEngine(socket), request("nobody")))


def test_an_error_of_loading_keeps_its_class_and_hint(socket: Path, tmp_path: Path) -> None:
    files = VersionFiles("foreign", tmp_path, None, tmp_path, ())
    with pytest.raises(IdentityError, match="stands on") as caught:
        asyncio.run(RemoteEngine(socket).load(files))
    assert caught.value.hint


def test_a_stream_that_is_closed_gives_its_place_to_the_next(
    socket: Path, version_of: VersionOf, expected: dict[str, tuple[int, ...]]
) -> None:
    async def ask() -> None:
        engine = RemoteEngine(socket)
        await engine.load(endless(version_of))
        await engine.load(version_of("red"))
        neighbour = asyncio.create_task(complete(engine, request("endless", 60, "neighbour")))
        for number in range(40):
            async with aclosing(engine.generate(request("endless", 450, str(number)))) as stream:
                await anext(stream)
        assert len((await neighbour).tokens) == 60
        assert (await complete(engine, request("red"))).tokens == expected["red"]

    asyncio.run(ask())


@pytest.mark.parametrize(
    "noise",
    [b"GET / HTTP/1.1\n", b'{"kind": "generate"}\n', b"\xff\xfe\n", b" " * (MAX_FRAME + 1) + b"\n"],
    ids=["http", "no id", "not UTF-8", "too long"],
)
def test_noise_costs_its_sender_and_nobody_else(
    socket: Path, version_of: VersionOf, noise: bytes
) -> None:
    async def disturb() -> list[bytes]:
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(noise)
        with suppress(ConnectionError):
            await writer.drain()
        try:
            return (await reader.read()).splitlines()
        except ConnectionError:
            return []
        finally:
            writer.close()

    async def ask() -> None:
        engine = RemoteEngine(socket)
        await engine.load(endless(version_of))
        async with aclosing(engine.generate(request("endless", 80))) as stream:
            first = await anext(stream)
            for line in await disturb():
                reply = decode_reply(line)
                assert isinstance(reply, Failed)
                assert (reply.id, reply.error) == ("", "RequestRefused")
            rest = [chunk async for chunk in stream]
        assert sum(len(chunk.tokens) for chunk in [first, *rest]) == 80

    asyncio.run(ask())


def test_a_wrong_frame_with_an_id_costs_that_call_alone(socket: Path) -> None:
    async def ask() -> None:
        reader, writer = await asyncio.open_unix_connection(socket)
        wrong = {"kind": "unload", "id": "a", "version": 7}
        writer.write(json.dumps(wrong).encode() + b"\n" + encode_call(Describe("b")))
        failed = decode_reply(await reader.readline())
        assert isinstance(failed, Failed)
        assert failed.id == "a"
        assert "version" in failed.message
        described = decode_reply(await reader.readline())
        assert isinstance(described, Described)
        assert described.id == "b"
        writer.close()
        await writer.wait_closed()

    asyncio.run(ask())


def test_a_second_engine_on_a_live_socket_is_refused(socket: Path, base: Path) -> None:
    with start_engine(base, socket) as second:
        out, err = second.communicate(timeout=DEADLINE_S)
    assert second.returncode == 2
    assert out == ""
    assert "another engine" in err
    assert asyncio.run(RemoteEngine(socket).capabilities()).context == 512


def test_one_engine_object_serves_several_event_loops(socket: Path) -> None:
    engine = RemoteEngine(socket)
    first, second = (asyncio.run(engine.capabilities()) for _ in range(2))
    assert first == second
