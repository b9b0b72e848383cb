"""A home with one deployment, and a gateway on a real socket in front of it."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI

from tests.databases import sqlite_database
from trimtab.gateway import keys
from trimtab.gateway.app import create_app
from trimtab.gateway.encoders import Encodes
from trimtab.gateway.keys import Created
from trimtab.inference import Engine, VersionFiles
from trimtab.journal import requests
from trimtab.journal.requests import Answered
from trimtab.ledger.accounts import Budget, account
from trimtab.ledger.money import Price
from trimtab.ledger.prices import set_price
from trimtab.registry import bases, deployments, identity, versions
from trimtab.registry.bases import Base
from trimtab.registry.identity import VersionSpec
from trimtab.registry.versions import ModelVersion
from trimtab.store.blobs import Blobs
from trimtab.store.database import Database
from trimtab.text.chat import ChatFormat

PRICE = Price(prompt_nano=1_000, completion_nano=7_000)
PROMPT = "My invoice is wrong"


@dataclass
class World:
    """`adapter` is live behind the deployment 'desk', `unverified` was never verified."""

    database: Database
    content: Blobs
    base_folder: Path
    base: ModelVersion
    adapter: ModelVersion
    unverified: ModelVersion
    key: Created

    @property
    def prompt_tokens(self) -> int:
        """How long PROMPT is for the live version."""
        template = self.adapter.spec.template
        chat = ChatFormat.from_folder(
            self.base_folder, system=template["system"], source=template["chat_template"]
        )
        return len(chat.prompt_tokens(chat.messages_of(PROMPT)))

    def new_key(self, limit_nano: int | None = None) -> Created:
        limit = None if limit_nano is None else f"{limit_nano / 1e9:.9f}"
        with self.database.transaction() as connection:
            return keys.create(connection, "test", "somebody", limit)

    def account(self, key: Created | None = None) -> Budget:
        with self.database.read() as connection:
            return account(connection, (key or self.key).id)

    def log(self) -> list[Answered]:
        """The request log, the oldest first."""
        with self.database.read() as connection:
            return list(requests.recent(connection, 1000))[::-1]

    def spent_for(self, answered: Answered) -> int | None:
        with self.database.read() as connection:
            row = connection.exec_driver_sql(
                f"SELECT amount_nano FROM spends WHERE request_id = '{answered.id}'"
            ).first()
        return None if row is None else int(row[0])


def _database(file: Path, url: str | None) -> Database:
    if url is None:
        # A home that is opened again keeps what it has.
        return Database(f"sqlite:///{file}") if file.exists() else sqlite_database(file)
    database = Database(url)
    database.migrate()
    return database


def build_world(
    folder: Path, base_folder: Path, template: str | None = None, url: str | None = None
) -> World:
    """In a SQLite file in `folder`, or in the database at `url`. `template` takes the place of the
    base's own chat template."""
    database = _database(folder / "trimtab.db", url)
    chat = ChatFormat.from_folder(base_folder)
    base_hash = "b" * 64

    def version(adapter: str | None, state: versions.State) -> ModelVersion:
        spec = VersionSpec(
            base=base_hash,
            adapter=adapter,
            tokenizer=identity.tokenizer_hash(base_folder),
            template={
                "chat_template": template or chat.template.source,
                "system": "Answer with one word.",
            },
            defaults={"max_tokens": 8, "stop_tokens": list(chat.stop_tokens())},
        )
        return ModelVersion(spec, project="support-desk", state=state)

    base = version(None, "unverified")
    adapter = version("a" * 64, "verified")
    unverified = version("c" * 64, "unverified")
    with database.transaction() as connection:
        bases.add(connection, Base(base_hash, "tiny", base_folder, {}, 1))
        for found in (base, adapter, unverified):
            versions.add(connection, found)
            set_price(connection, found.hash, PRICE)
        deployments.create(connection, "desk", "support-desk", base.hash)
        deployments.candidate(connection, "desk", adapter.hash, 1)
        deployments.promote(connection, "desk", adapter.hash, 2, "better", {})
        key = keys.create(connection, "test", "somebody")
    return World(database, Blobs(folder / "content"), base_folder, base, adapter, unverified, key)


def app_with(
    world: World, engine: Engine, adapter: Path | None = None, encodes: Encodes | None = None
) -> FastAPI:
    """The gateway in front of one engine, which loads what it is asked for."""

    async def ready(version: ModelVersion) -> Engine:
        folder = world.base_folder
        stop = tuple(version.spec.defaults["stop_tokens"])
        files = adapter if version.spec.adapter else None
        await engine.load(VersionFiles(version.hash, folder, files, folder, stop))
        return engine

    return create_app(world.database, ready, world.content, encodes)


class Working(uvicorn.Server):
    """Starts the application's worker with it, and ends both."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._app.state.worker.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._app.state.desk.drain.finish(5)
        await super().shutdown(sockets)
        await self._app.state.desk.refusals.settled()
        await self._app.state.desk.books.settled()

    @property
    def _app(self) -> FastAPI:
        assert isinstance(self.config.app, FastAPI)
        return self.config.app


@contextmanager
def listening(app: FastAPI, key: str = "", *, works: bool = False) -> Iterator[httpx.Client]:
    """Serve the application on a free port, and talk to it over HTTP. One that `works` works
    batches too."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_config=None, access_log=False, ws="websockets-sansio", lifespan="off"
    )
    server = Working(config) if works else uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        until(lambda: server.started)
        with httpx.Client(base_url=address, headers=headers, timeout=30.0) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something that happens in another thread."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
