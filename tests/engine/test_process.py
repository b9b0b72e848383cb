"""The engine as a process: it starts, dies, drains, and takes nobody with it."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.conftest import VersionOf
from tests.engine.processes import DEADLINE_S, engine_process, start_engine, stop_engine
from trimtab.engine import process
from trimtab.engine.llama import pages
from trimtab.engine.wire.remote import RemoteEngine
from trimtab.errors import EngineUnavailable
from trimtab.inference import GenerateRequest, Sampling, ScoreRequest, VersionFiles, complete

LONG = Sampling(max_tokens=400)


@pytest.fixture
def endless(version_of: VersionOf) -> VersionFiles:
    """A version that only `max_tokens` stops."""
    return replace(version_of("base"), stop_tokens=())


def test_a_killed_engine_fails_its_calls_at_once_and_a_new_one_takes_the_stale_socket(
    base: Path, tmp_path: Path, endless: VersionFiles
) -> None:
    socket = tmp_path / "engine.sock"
    engine = RemoteEngine(socket)

    async def killed_in_the_middle(process: subprocess.Popen[str]) -> None:
        await engine.load(endless)
        async with aclosing(engine.generate(GenerateRequest("base", (5, 6), LONG, "1"))) as stream:
            await anext(stream)
            other = asyncio.create_task(
                engine.score(ScoreRequest("base", (5,) * 100, ((7,) * 300,) * 60, "2"))
            )
            await asyncio.sleep(0)
            process.kill()
            async with asyncio.timeout(10):
                with pytest.raises(EngineUnavailable):
                    async for _ in stream:
                        pass
                with pytest.raises(EngineUnavailable):
                    await other

    async def whole_again() -> None:
        await engine.load(endless)
        answer = await complete(
            engine, GenerateRequest("base", (5, 6), Sampling(max_tokens=3), "3")
        )
        assert len(answer.tokens) == 3

    with engine_process(base, socket) as process:
        asyncio.run(killed_in_the_middle(process))
        process.wait()
        assert socket.exists()
        with pytest.raises(EngineUnavailable) as caught:
            asyncio.run(engine.capabilities())
        assert caught.value.hint
    with engine_process(base, socket):
        asyncio.run(whole_again())


def test_sigterm_finishes_what_was_admitted_and_leaves_nothing(
    base: Path, tmp_path: Path, endless: VersionFiles
) -> None:
    socket = tmp_path / "engine.sock"
    engine = RemoteEngine(socket)

    async def stopped_in_the_middle(process: subprocess.Popen[str]) -> int:
        await engine.load(endless)
        count = 0
        request = GenerateRequest("base", (5, 6), replace(LONG, max_tokens=200), "1")
        async with aclosing(engine.generate(request)) as stream:
            async for chunk in stream:
                if count == 0:
                    process.send_signal(signal.SIGTERM)
                count += len(chunk.tokens)
        assert chunk.finish_reason == "length"
        return count

    with engine_process(base, socket) as process:
        assert asyncio.run(stopped_in_the_middle(process)) == 200
        out, err = stop_engine(process)
        assert process.returncode == 0
        assert (out, err) == ("", "")
    assert not socket.exists()
    with pytest.raises(EngineUnavailable):
        asyncio.run(engine.capabilities())


PARENT = """
import sys, time
from trimtab.child import Child
child = Child("engine", ["trimtab.engine.process", *sys.argv[1:]])
child.start()
print(child.process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("ready", [False, True], ids=["while it starts", "while it serves"])
def test_an_engine_does_not_outlive_its_parent(base: Path, tmp_path: Path, ready: bool) -> None:
    socket = tmp_path / "engine.sock"
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, "--socket", str(socket), "--base", str(base)],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_until(socket.exists if ready else Path(f"{socket}.lock").exists)
        parent.kill()
    wait_until(lambda: not runs(pid))


def wait_until(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """A zombie runs no more: who adopts it here may never bury it."""
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_base_that_cannot_be_loaded_ends_the_process_with_one_line(tmp_path: Path) -> None:
    with start_engine(tmp_path / "nowhere", tmp_path / "engine.sock") as process:
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "nowhere" in err
    assert not (tmp_path / "engine.sock").exists()


def test_a_machine_without_memory_for_the_cache_is_told_in_one_line(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuses(size: int) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(pages, "_piece", refuses)
    # What a process sets for itself is not this one's.
    monkeypatch.setattr(os, "umask", lambda mask: None)
    monkeypatch.setattr(process, "ENVIRONMENT", {})
    socket = tmp_path / "engine.sock"
    command = ["engine", "--socket", str(socket), "--base", str(base)]
    monkeypatch.setattr(sys, "argv", command)
    assert process.main() == 1
    [record] = caplog.records
    assert "Cannot allocate memory" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert not socket.exists()


START = """
import asyncio, sys
from pathlib import Path
from trimtab.engine.local import LocalEngine
from trimtab.inference import GenerateRequest, Sampling, VersionFiles, complete

base, adapter = map(Path, sys.argv[1:])

async def answer(engine):
    await engine.load(VersionFiles("red", base, adapter, base, ()))
    request = GenerateRequest("red", (5, 6), Sampling(max_tokens=2), "1")
    return len((await complete(engine, request)).tokens)

engine = LocalEngine(base)
print(asyncio.run(answer(engine)))
print(sorted({"transformers", "peft", "sqlalchemy"} & sys.modules.keys()))
engine.close()
"""


def test_a_start_waits_for_no_library_that_the_fast_path_does_not_need(
    base: Path, adapters: dict[str, Path]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", START, str(base), str(adapters["red"])],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.stdout.splitlines() == ["2", "[]"], done.stderr
