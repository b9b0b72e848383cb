"""Batches whose workers are killed: forked processes that work one database, and what must hold.

Each worker is a real one (books, leases, files) over a small engine that now and then dies in the
middle of an answer. It is killed between any two instructions, as `kill -9` does, and others go on.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from tests.gateway.echo import Echo
from tests.gateway.offline_world import jsonl, request
from tests.gateway.world import World
from trimtab.errors import EngineUnavailable
from trimtab.gateway.billing.books import Books
from trimtab.gateway.catalogue import Catalogue
from trimtab.gateway.desk import Desk
from trimtab.gateway.drain import Drain
from trimtab.gateway.encoders import Encoders
from trimtab.gateway.off_loop import OffLoop
from trimtab.gateway.offline import asking, batches, ending, files, lines, redrive, worker
from trimtab.gateway.offline.requests import Checked
from trimtab.gateway.streams.live import Lives
from trimtab.gateway.telemetry.refusals import Refusals
from trimtab.gateway.tiers import breaker
from trimtab.gateway.tiers.upstream import Upstreams
from trimtab.inference import Chunk, Engine, GenerateRequest
from trimtab.journal.dead_letters import EVERYTHING
from trimtab.ledger.tables import database_now
from trimtab.registry.versions import ModelVersion
from trimtab.store.blobs import Blobs
from trimtab.store.database import Connection, Database

LEASE_US = 250_000


@dataclass
class Dying(Echo):
    """Dies in the middle of some answers."""

    share: float = 0.0
    chance: random.Random = field(default_factory=random.Random)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        dies = self.chance.random() < self.share
        async for chunk in super().generate(request):
            yield chunk
            if dies:
                raise EngineUnavailable("/run/engine.sock: gone")


def accept(world: World, folder: Path, count: int) -> str:
    """A batch of `count` lines, as the routes accept one."""
    asks = folder / "asks.jsonl"
    asks.write_bytes(jsonl([request(f"r{n}", max_tokens=1 + n % 4) for n in range(count)]))
    file_id = files.new_id()
    with asks.open("rb") as upload:
        blob = files.store(world.content, file_id, checked := Checked(upload))
    with world.database.transaction() as connection:
        key = world_key(world, connection)
        now = database_now(connection)
        later = now + files.KEPT_US
        file = files.File(
            file_id, key.id, key.owner, "asks", "batch", checked.size, blob, checked.lines,
            checked.endpoint, now, later,
        )  # fmt: skip
        files.add(connection, file)
        return batches.create(connection, key, file, "/v1/generate", 3600, None).id


def world_key(world: World, connection: Connection) -> Any:
    from trimtab.gateway import keys

    return keys.get(connection, world.key.id)


def work(url: str, content: Path, seed: int, share: float) -> NoReturn:
    """A forked worker's life; it ends with a kill."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    lines.LEASE_US = ending.LEASE_US = LEASE_US
    # Few at once, so that there is something left to do when the kills come.
    worker.AT_ONCE, worker.BEAT_S, worker.POLL_S = 2, 0.05, 0.02
    asking.BASE_S, asking.BUSY_S, asking.ATTEMPTS = 0.01, 0.01, 3
    breaker.FAILURES = 10**9
    engine = Dying(words=4, pause_s=0.01, share=share, chance=random.Random(seed))

    async def ready(version: ModelVersion) -> Engine:
        engine.loaded.add(version.hash)
        return engine

    async def life() -> None:
        database = Database(url)
        off_loop, drain = OffLoop(database), Drain()
        books = Books(database)
        desk = Desk(
            off_loop,
            Catalogue(off_loop, ready),
            Encoders(off_loop, None),
            books,
            Upstreams(),
            Lives(drain),
            drain,
            Blobs(content),
            Refusals(off_loop, books.metrics),
        )
        worker.Worker(desk, database).start()
        await asyncio.Event().wait()

    try:
        asyncio.run(life())
    finally:
        sys.stderr.flush()
        os._exit(1)


class Crew:
    """Workers in processes of their own."""

    def __init__(self, world: World, chance: random.Random, share: float) -> None:
        self._url = world.database.url.render_as_string(hide_password=False)
        self._content = world.content.root
        self._chance = chance
        self._share = share
        self._pids: list[int] = []
        self.kills = 0

    def hire(self) -> None:
        seed = self._chance.getrandbits(32)
        pid = os.fork()
        if pid == 0:
            work(self._url, self._content, seed, self._share)
        self._pids.append(pid)

    def kill_one(self) -> None:
        self._end(self._pids.pop(self._chance.randrange(len(self._pids))))
        self.kills += 1

    def dismiss(self) -> None:
        while self._pids:
            self._end(self._pids.pop())

    @staticmethod
    def _end(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        assert os.WIFSIGNALED(status), "a worker ended by itself"


def run(world: World, chance: random.Random, kills: int, share: float, limit_s: float) -> int:
    """Let two workers do the batch of a world, and kill one of them now and then; how often."""
    crew = Crew(world, chance, share)
    # The parent's connections must not be there twice.
    world.database.close()
    try:
        crew.hire()
        crew.hire()
        while crew.kills < kills and not over(world):
            world.database.close()
            time.sleep(chance.uniform(0.02, 0.35))
            crew.kill_one()
            crew.hire()
        deadline = time.monotonic() + limit_s
        while not over(world):
            assert time.monotonic() < deadline, standing(world)
            time.sleep(0.05)
    finally:
        crew.dismiss()
    return crew.kills


def over(world: World) -> bool:
    with world.database.read() as connection:
        [status] = connection.exec_driver_sql("SELECT status FROM batches").scalars()
    return status in batches.ENDED


def standing(world: World) -> str:
    with world.database.read() as connection:
        states = connection.exec_driver_sql("SELECT state, count(*) FROM lines GROUP BY state")
        batch = connection.exec_driver_sql("SELECT status, waits_for, failed FROM batches").all()
        return f"{batch} {states.all()}"


def faults(world: World, batch_id: str, count: int) -> list[str]:
    """What is not as it must be: each line ended once, and the ledger is the sum of the lines."""
    found: list[str] = []

    def must(true: bool, what: str) -> None:
        if not true:
            found.append(what)

    names = [f"r{number}" for number in range(count)]
    with world.database.transaction() as connection:
        batch = batches.locked(connection, batch_id)
        answers = _file(world, connection, batch.output_file)
        errors = _file(world, connection, batch.error_file)
        spends = dict(
            connection.exec_driver_sql("SELECT request_id, amount_nano FROM spends").all()
        )
        logged = dict(connection.exec_driver_sql("SELECT id, cost_nano FROM requests").all())
        letters = Counter(connection.exec_driver_sql("SELECT name FROM dead_letters").scalars())
        holds = connection.exec_driver_sql("SELECT id FROM holds WHERE state = 'open'").all()
        claims = connection.exec_driver_sql("SELECT claim FROM lines WHERE claim > ''").all()
    told = {line["id"]: round(line["response"]["body"]["cost_usd"] * 1e9) for line in answers}
    done = [line["custom_id"] for line in answers]
    failed = [line["custom_id"] for line in errors]
    must(sorted(done + failed, key=names.index) == names, "each line ends once")
    must(done == sorted(done, key=names.index), "answers are in order")
    must(failed == sorted(failed, key=names.index), "errors are in order")
    must(letters == Counter(failed), "each line that failed is one dead letter")
    must((batch.answered, batch.failed) == (len(done), len(failed)), "the counts are right")
    must(told == spends, "each answer is paid for once, at its cost")
    must(told == logged, "each answer is logged once, at its cost")
    account = world.account()
    must(account.spent_nano == sum(told.values()), "the account is the sum of its answers")
    must((account.held_nano, holds) == (0, []), "nothing is held any more")
    must(claims == [], "nobody holds a line any more")
    must(len(list(world.content.older_than(-60))) >= 2, "the files are there")
    return found


def replay(world: World) -> int:
    """Take every dead letter up again."""
    return len(redrive.replay(world.database, EVERYTHING, (), lambda *_: None).taken)


def _file(world: World, connection: Connection, file_id: str | None) -> list[dict[str, Any]]:
    file = files.find(connection, file_id)
    if file is None:
        return []
    text = b"".join(files.words(world.content.path(file.blob), file.id))
    assert len(text) == file.bytes
    return [json.loads(line) for line in text.splitlines()]
