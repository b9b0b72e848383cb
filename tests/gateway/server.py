"""A gateway as a process of its own, as the supervisor starts one: database URL and socket.

python -m tests.gateway.server URL FD CONTENT

Signs of life come often, and who left a stream is soon given up. With TRIMTAB_TEST_WORDS its engine
says so many words, and the drain is short.
"""

import os
import sys
from pathlib import Path

from tests.gateway.echo import Echo
from trimtab.gateway import process
from trimtab.gateway.app import create_app
from trimtab.gateway.streams import live
from trimtab.inference import Engine
from trimtab.registry.versions import ModelVersion
from trimtab.store.blobs import Blobs
from trimtab.store.database import Database

if __name__ == "__main__":
    echo = Echo(words=20, pause_s=0.05)
    process.HEARTBEAT_S = 0.1
    live.RESUME_S, live.POLL_S = 0.4, 0.1
    if "TRIMTAB_TEST_WORDS" in os.environ:
        echo.words = int(os.environ["TRIMTAB_TEST_WORDS"])
        process.DRAIN_S = 0

    async def ready(version: ModelVersion) -> Engine:
        echo.loaded.add(version.hash)
        return echo

    database = Database(sys.argv[1])
    app = create_app(database, ready, Blobs(Path(sys.argv[3])))
    process.serve(app, int(sys.argv[2]), on_started=lambda: print("started", flush=True))
