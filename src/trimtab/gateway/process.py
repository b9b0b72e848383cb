"""Running the application on a listening socket that was inherited from the supervisor."""

import gc
import socket
import time
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from trimtab.gateway.desk import Desk
from trimtab.gateway.entrance.door import BODY_LIMIT
from trimtab.gateway.offline.worker import Worker
from trimtab.gateway.streams.stream import HEARTBEAT_S

# How long requests under way may go on after a SIGTERM.
DRAIN_S = 8
# Objects between two collections: several hundred requests' worth, which die by themselves.
YOUNG = 50_000


class _Server(uvicorn.Server):
    """Tells when it has started."""

    def __init__(
        self,
        config: uvicorn.Config,
        desk: Desk,
        worker: Worker,
        on_started: Callable[[], None] | None,
    ) -> None:
        super().__init__(config)
        self._desk = desk
        self._worker = worker
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started:
            return
        self._worker.start()
        if self._on_started is not None:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Admission ends first; then batches are handed back; WebSockets, resumable streams and
        plain requests share one deadline; and the ledger has the last word."""
        for listener in (*self.servers,):
            listener.close()
        desk, until = self._desk, time.monotonic() + DRAIN_S
        await desk.drain.finish(DRAIN_S)
        # Plain requests went on meanwhile: they get what is left of the time, not as much again.
        self.config.timeout_graceful_shutdown = max(0, round(until - time.monotonic()))
        await super().shutdown(sockets)
        await desk.refusals.settled()
        await desk.books.settled()


def serve(app: FastAPI, listen_fd: int, on_started: Callable[[], None] | None = None) -> None:
    """Answer requests until a SIGTERM, then let those under way end. Takes over `listen_fd`."""
    config = uvicorn.Config(
        app,
        access_log=False,
        # Whoever starts the process says where its log goes.
        log_config=None,
        lifespan="off",
        server_header=False,
        # No request's word about its address is believed.
        proxy_headers=False,
        timeout_graceful_shutdown=DRAIN_S,
        ws="websockets-sansio",
        ws_max_size=BODY_LIMIT,
        # A sign of life both ways; also the heartbeat of a silent answer.
        ws_ping_interval=HEARTBEAT_S,
        ws_ping_timeout=20.0,
    )
    # What the imports made lives as long as the process: no collection need look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)
    with socket.socket(fileno=listen_fd) as listener:
        _Server(config, app.state.desk, app.state.worker, on_started).run(sockets=[listener])
