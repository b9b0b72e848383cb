"""The supervisor of `trimtab serve`: one engine per base and encoder, the gateways and one
controller.

It starts children, restarts them with backoff, and takes all of them with it when it ends. It
computes nothing and answers nothing itself, so that it has no reason to fail.
"""

import errno
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType

import httpx

from trimtab.child import Child, stop_together
from trimtab.errors import InUse, NotFound, TrimtabError, UserError
from trimtab.flows import backends
from trimtab.flows.backends import Backend
from trimtab.flows.engines import encoder_child, engine_child
from trimtab.flows.serving import declare_policy, served_bases
from trimtab.flows.sockets import engine_socket
from trimtab.project import Project
from trimtab.registry import encoders
from trimtab.store.home import Home

STOP_S = 10.0
TICK_S = 0.5


class Supervisor:
    """Runs until `stop` is called or a SIGTERM or SIGINT comes. Where a `project` is named, its
    deployment answers as the file says now."""

    def __init__(
        self, home: Home, host: str, port: int, gateways: int, project: Project | None = None
    ) -> None:
        self._home = home
        self._database = home.database()
        self._project = project
        self._listener = listen(host, port)
        self.address = address(host, self._listener.getsockname()[1])
        self._engines: dict[str, Child] = {}
        self._backends: dict[str, Backend] = {}
        self._gateways = [self._gateway(number) for number in range(gateways)]
        self._controller = Child(
            "controller", ["trimtab.flows.controller", "--home", str(home.root)]
        )
        self._stopped = threading.Event()
        self._fault = ""

    def stop(self, signum: int = 0, frame: FrameType | None = None) -> None:
        """Also a signal handler."""
        self._stopped.set()

    def run(self, on_ready: Callable[[str], None], on_event: Callable[[str], None]) -> None:
        """Serve until stopped. `on_ready` hears the address once `GET /readyz` says so.

        Raises InUse where another server has the home: a base has one engine in it.
        """
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)
        try:
            with self._home.lock("_server", f"{self._home.root} is served already"):
                if self._project is not None:
                    declare_policy(self._database, self._project)
                self._serve(on_ready, on_event)
        finally:
            self.close()

    def close(self) -> None:
        """What was taken before any child was started: the port and the database."""
        self._listener.close()
        self._database.close()

    def _serve(self, on_ready: Callable[[str], None], on_event: Callable[[str], None]) -> None:
        try:
            self._learn_bases()
            if not self._engines:
                raise NotFound(
                    f"{self._home.root}: nothing is deployed here", hint="first: trimtab run"
                )
            ready = False
            while not self._stopped.is_set():
                self._tend(on_event)
                if not ready and self._is_ready():
                    ready = True
                    on_ready(self.address)
                self._stopped.wait(TICK_S)
        finally:
            self._stop_children()

    def _tend(self, on_event: Callable[[str], None]) -> None:
        fault = ""
        try:
            self._learn_bases()
        except TrimtabError as error:
            # A database that cannot be read for a moment is no reason to stop answering.
            fault = error.message
        if fault and fault != self._fault:
            on_event(fault)
        self._fault = fault
        for child in (*self._engines.values(), *self._gateways, self._controller):
            if child.tend() and child.restarts > 1:
                on_event(f"{child.name} died and was restarted")

    def _learn_bases(self) -> None:
        """A promotion may have put another base in front: it needs an engine too. One whose project
        has chosen another engine meanwhile gets that one.
        """
        with self._database.read() as connection:
            bases, known = served_bases(connection), encoders.list(connection)
            chosen = [backends.declared(connection, base.hash) for base in bases]
        for base, backend in zip(bases, chosen, strict=True):
            if self._backends.get(base.hash) == backend:
                continue
            if (before := self._engines.pop(base.hash, None)) is not None:
                before.stop(STOP_S)
            where = engine_socket(self._home, base.hash)
            self._engines[base.hash] = engine_child(where, base.hash, base.folder, backend)
            self._backends[base.hash] = backend
        for encoder in known:
            if encoder.hash not in self._engines:
                where = engine_socket(self._home, encoder.hash)
                self._engines[encoder.hash] = encoder_child(where, encoder)

    def _gateway(self, number: int) -> Child:
        fd = self._listener.fileno()
        home = str(self._home.root)
        return Child(
            f"gateway {number}",
            ["trimtab.flows.gateway", "--home", home, "--listen-fd", str(fd)],
            fds=(fd,),
        )

    def _is_ready(self) -> bool:
        try:
            # Our own gateway is never behind the proxy that the environment may name.
            found = httpx.get(f"{self.address}/readyz", timeout=2.0, trust_env=False)
            return found.status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _stop_children(self) -> None:
        """Admission ends first, then what decides, then what computes."""
        deadline = time.monotonic() + STOP_S
        stop_together(self._gateways, STOP_S)
        for child in (self._controller, *self._engines.values()):
            child.stop(max(0.5, deadline - time.monotonic()))


def address(host: str, port: int) -> str:
    """The URL of a host; RFC 3986 sets the numbers of IPv6 in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket that the gateways share. Port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise InUse(
                f"port {port} on {host} is in use", hint="choose another: --port 0 takes a free one"
            ) from None
        raise UserError(
            f"cannot listen on {host}:{port}: {error.strerror}", hint="check --host and --port"
        ) from None
    return listener
