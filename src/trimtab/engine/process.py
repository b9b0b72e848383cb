"""The engine process: `python -m trimtab.engine.process --socket PATH --base FOLDER`.

With `--encoder FOLDER` in place of a base it makes embeddings, and nothing else. With `--vllm-url`
or `--vllm-env` a vLLM server computes, one that runs already or one that is started from that
environment. Prints one line, "ready", when it serves, and logs to stderr. SIGTERM lets it finish
what it admitted. With `--parent-fd` it leaves at once when its parent is gone.
"""

import argparse
import asyncio
import fcntl
import gc
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from trimtab.child import leave_with_parent
from trimtab.engine.faults import unexpected
from trimtab.engine.wire.protocol import MAX_FRAME
from trimtab.errors import EngineUnavailable, InUse, TrimtabError

if TYPE_CHECKING:
    from trimtab.engine.encoding import EncoderEngine
    from trimtab.engine.local import LocalEngine
    from trimtab.engine.vllm.engine import VllmEngine

    Computing = LocalEngine | EncoderEngine | VllmEngine

DRAIN_S = 8.0
FLUSH_S = 1.0
ALIVE_S = 0.5
CLAIMS, CLAIM_S = 5, 0.02
"""Tries to lock a socket, and the pause between two."""

# Read by libraries when they are imported, so they are set before. Threads that wait spin for about
# a millisecond: asleep at once they cost a quiet machine half its speed, and spinning on they slow
# everybody else on a busy one.
ENVIRONMENT = {
    "GOMP_SPINCOUNT": "100000",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",
}

log = logging.getLogger("trimtab.engine")


def main() -> int:
    """The exit code: 0 after a drain, else that of the error."""
    arguments = _arguments()
    if arguments.parent_fd is not None:
        leave_with_parent(arguments.parent_fd)
    logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s", level=logging.WARNING)
    os.umask(0o077)
    try:
        with claimed(arguments.socket):
            asyncio.run(_run(arguments))
    except TrimtabError as error:
        log.error("%s%s", error.message, f" ({error.hint})" if error.hint else "")
        return error.exit_code
    except Exception as error:
        # A machine without memory for the cache, for one.
        return unexpected(error).exit_code
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="trimtab.engine.process")
    parser.add_argument("--socket", type=Path, required=True)
    held = parser.add_mutually_exclusive_group(required=True)
    held.add_argument("--base", type=Path)
    held.add_argument("--encoder", type=Path)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--vllm-url")
    chosen.add_argument("--vllm-env", type=Path)
    chosen.add_argument("--quantisation", choices=("none", "int8"), default="none")
    parser.add_argument("--parent-fd", type=int)
    return parser.parse_args()


async def _run(arguments: argparse.Namespace) -> None:
    if not (arguments.vllm_url or arguments.vllm_env):
        await serve(_engine(arguments), arguments.socket)
        return
    from trimtab.engine.vllm import server as vllm_server

    if arguments.vllm_url:
        opened = vllm_server.given(arguments.vllm_url, arguments.base)
    else:
        opened = vllm_server.started(arguments.vllm_env, arguments.base)
    async with opened as engine:
        await serve(engine, arguments.socket)


def _engine(arguments: argparse.Namespace) -> "LocalEngine | EncoderEngine":
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Imports leave much behind and nothing to collect; what is there then stays to the end.
    gc.disable()
    try:
        return _opened(arguments)
    finally:
        gc.freeze()
        gc.enable()


def _opened(arguments: argparse.Namespace) -> "LocalEngine | EncoderEngine":
    # Libraries warn their own developers; stderr is for what an operator can act upon.
    warnings.simplefilter("ignore")
    if arguments.encoder is not None:
        from trimtab.engine.encoding import EncoderEngine

        return EncoderEngine(arguments.encoder)
    from trimtab.engine.local import LocalEngine

    return LocalEngine(arguments.base, quantisation=arguments.quantisation)


@contextmanager
def claimed(socket: Path) -> Iterator[None]:
    """Hold the socket's path for this process alone; what a dead one left there is removed.

    The lock dies with its process, however that ends, and so tells a stale socket from a live one.
    Raises InUse where another engine holds it.
    """
    with _locked(socket):
        socket.unlink(missing_ok=True)
        yield
        socket.unlink(missing_ok=True)


def _locked(socket: Path) -> TextIO:
    """The lock of a socket. Who removes what dead engines left holds it for a moment, too, and
    then the file that was opened here is another one than lies there, or none.
    """
    path = socket.with_name(socket.name + ".lock")
    for _ in range(CLAIMS):
        lock = path.open("w")
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        lock.close()
        time.sleep(CLAIM_S)
    raise InUse(f"{socket}: another engine serves here", hint="use that one, or stop it first")


async def serve(engine: "Computing", socket: Path) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises EngineUnavailable where what computes
    behind the engine is not `alive` any more.
    """
    from trimtab.engine.wire.server import Connection

    connections: set[Connection] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(engine, reader, writer)
        connections.add(connection)
        try:
            await connection.serve()
        finally:
            connections.discard(connection)

    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    server = await asyncio.start_unix_server(accept, socket, limit=MAX_FRAME)
    print("ready", flush=True)
    while not stopped.is_set() and engine.alive():
        with suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), ALIVE_S)
    server.close()
    if not engine.alive():
        raise EngineUnavailable("what computes behind the engine ended", hint="its words are above")
    await engine.drain(DRAIN_S)
    await asyncio.gather(*(connection.finish(FLUSH_S) for connection in connections))


if __name__ == "__main__":
    sys.exit(main())
