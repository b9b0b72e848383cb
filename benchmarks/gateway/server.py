"""One gateway process of the benchmark, as the supervisor starts it: `URL FD SOCKET`.

Everything is on: keys, limits, budgets, ledger, request log. The engine behind it is the fake one.
"""

import sys
from pathlib import Path

from trimtab.engine.wire.remote import RemoteEngine
from trimtab.gateway.app import create_app
from trimtab.gateway.process import serve
from trimtab.inference import Engine
from trimtab.registry.versions import ModelVersion
from trimtab.store.blobs import Blobs
from trimtab.store.database import Database

if __name__ == "__main__":
    engine = RemoteEngine(Path(sys.argv[3]))

    async def ready(version: ModelVersion) -> Engine:
        return engine

    database = Database(sys.argv[1])
    assert database.url.database is not None
    content = Blobs(Path(database.url.database).parent / "content")
    app = create_app(database, ready, content)
    serve(app, int(sys.argv[2]), on_started=lambda: print("started", flush=True))
