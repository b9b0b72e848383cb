"""One gateway process of the benchmark: `DATABASE FD SOCKET FILES`.

The gateway as it is served: keys, budgets, ledger, request log. `FILES` says in JSON where the
adapter of each version lies; the versions have no stop token, so that every answer is as long as it
was asked to be.
"""

import asyncio
import json
import sys
from pathlib import Path

from trimtab.engine.wire.remote import RemoteEngine
from trimtab.gateway.app import create_app
from trimtab.gateway.process import serve
from trimtab.inference import Engine, VersionFiles
from trimtab.registry.versions import ModelVersion
from trimtab.store.blobs import Blobs
from trimtab.store.database import Database


def main() -> None:
    url, fd, socket, files = sys.argv[1:]
    engine = RemoteEngine(Path(socket))
    told = json.loads(Path(files).read_text())
    base = Path(told["base"])
    loaded: set[str] = set()
    loading = asyncio.Lock()

    async def ready(version: ModelVersion) -> Engine:
        async with loading:
            if version.hash not in loaded:
                place = told["adapters"].get(version.hash)
                adapter = None if place is None else Path(place)
                await engine.load(VersionFiles(version.hash, base, adapter, base, ()))
                loaded.add(version.hash)
        return engine

    content = Blobs(Path(socket).parent / "content")
    app = create_app(Database(url), ready, content)
    serve(app, int(fd), on_started=lambda: print("ready", flush=True))


if __name__ == "__main__":
    main()
