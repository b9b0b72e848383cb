"""The engine a run asks: the one that serves from the same home, else one of its own."""

import secrets
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from trimtab.child import Child
from trimtab.engine.wire.remote import RemoteEngine
from trimtab.errors import EngineUnavailable
from trimtab.flows.backends import BUILT_IN, Backend
from trimtab.flows.sockets import discard_dead, engine_socket, run_socket
from trimtab.flows.watch import Watch
from trimtab.inference import Engine
from trimtab.registry.bases import Base
from trimtab.registry.encoders import Encoder
from trimtab.store.home import Home

START_S, VLLM_START_S, STOP_S = 180.0, 620.0, 20.0


class RunEngine:
    """Holds an engine of a base for as long as the block runs; one that serves already is used,
    where it may be `shared`.
    """

    def __init__(
        self, home: Home, base: Base, watch: Watch, backend: Backend = BUILT_IN, shared: bool = True
    ) -> None:
        self._home = home
        self._base = base
        self._backend = backend
        self._shared = shared
        self._watch = watch
        self._child: Child | None = None
        self._socket = engine_socket(home, base.hash)

    def __enter__(self) -> Self:
        if not (self._shared and answers(self._socket)):
            try:
                self._start()
            except BaseException:
                self._stop()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def engine(self) -> Engine:
        return RemoteEngine(self._socket)

    def _stop(self) -> None:
        if self._child is not None:
            self._child.stop(STOP_S)
            discard_dead(self._socket.parent)

    def _start(self) -> None:
        self._socket = run_socket(self._home, self._base.hash, secrets.token_hex(4))
        self._child = engine_child(self._socket, self._base.hash, self._base.folder, self._backend)
        self._child.start()
        started = time.monotonic()
        limit = START_S if self._backend.built_in else VLLM_START_S
        while not answers(self._socket):
            waited = time.monotonic() - started
            if not self._child.alive or waited > limit:
                raise EngineUnavailable(
                    f"the engine of {self._base.name} did not start within {waited:.0f} s",
                    hint="its words are above; is there memory enough for the base?",
                )
            self._watch.advanced("starting the engine", waited, None, f"{waited:.0f} s")
            time.sleep(0.1)


def engine_child(socket: Path, base: str, folder: Path, backend: Backend = BUILT_IN) -> Child:
    """The engine process of a base, not started yet."""
    where = ["--socket", str(socket), "--base", str(folder)]
    arguments = ["trimtab.engine.process", *where, *backend.arguments()]
    return Child(f"engine {base[:12]}", arguments)


def encoder_child(socket: Path, encoder: Encoder) -> Child:
    """The engine process of an encoder, not started yet."""
    where = ["--socket", str(socket), "--encoder", str(encoder.folder)]
    return Child(f"encoder {encoder.name}", ["trimtab.engine.process", *where])


def answers(path: Path) -> bool:
    """Whether somebody listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
