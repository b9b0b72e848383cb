"""What a gateway does where its engine has lost a version."""

import asyncio
from contextlib import closing
from pathlib import Path

import pytest
import torch

from tests.faults.engine import engine_at
from tests.flows.test_supervisor import make_home
from trimtab.engine.local import LocalEngine
from trimtab.errors import EngineUnavailable
from trimtab.flows.served import Engines
from trimtab.flows.sockets import engine_socket
from trimtab.gateway import problems
from trimtab.inference import GenerateRequest, Sampling, ScoreRequest, VersionFiles, complete
from trimtab.registry import bases, deployments, versions
from trimtab.store.home import Home


class Gate:
    """Holds the loads of an engine back until it is opened, as many probes would."""

    def __init__(self, engine: LocalEngine) -> None:
        self.open, self.entered, self.asked = asyncio.Event(), asyncio.Event(), 0
        self._load = engine._trials._load
        engine._trials._load = self

    async def __call__(self, files: VersionFiles) -> None:
        self.asked += 1
        self.entered.set()
        await self.open.wait()
        await self._load(files)


def test_a_load_that_takes_longer_than_any_request_has_comes_to_its_end(tmp_path: Path) -> None:
    home = Home(make_home(tmp_path))
    with closing(home.database()) as database:
        with database.read() as connection:
            version = versions.get(connection, deployments.get(connection, "tiny").live)
            base = bases.get(connection, version.spec.base)
        local = LocalEngine(base.folder, torch.float32, torch.device("cpu"))
        wanted = ScoreRequest(version.hash, (3, 4), ((5,),), "r")

        async def ask() -> None:
            async with engine_at(engine_socket(home, base.hash), local):
                engines = Engines(home, database)
                served = await engines.ready(version)
                await served.unload(version.hash)
                gate = Gate(local)
                late = asyncio.create_task(served.score(wanted))
                await asyncio.wait_for(gate.entered.wait(), 10)
                late.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await late
                gate.open.set()
                assert len(await served.score(wanted)) == 1
                assert (gate.asked, engines.loads(version)) == (1, 2)

        try:
            asyncio.run(ask())
        finally:
            local.close()


def test_a_file_that_is_gone_at_a_reload_costs_the_requests_that_need_it_alone(
    tmp_path: Path,
) -> None:
    """The fault is the server's, whatever it would be on a command line."""
    home = Home(make_home(tmp_path))
    with closing(home.database()) as database:
        with database.read() as connection:
            version = versions.get(connection, deployments.get(connection, "tiny").live)
            base = bases.get(connection, version.spec.base)
        local = LocalEngine(base.folder, torch.float32, torch.device("cpu"))
        wanted = ScoreRequest(version.hash, (3, 4), ((5,),), "r")
        stream = GenerateRequest(version.hash, (3, 4), Sampling(max_tokens=2), "g")
        missing, aside = base.folder / "tokenizer.json", tmp_path / "aside.json"

        async def ask() -> None:
            async with engine_at(engine_socket(home, base.hash), local):
                served = await Engines(home, database).ready(version)
                other = VersionFiles("other", base.folder, None, base.folder, ())
                await local.load(other)
                await served.unload(version.hash)
                missing.rename(aside)
                for asked in (served.score(wanted), complete(served, stream)):
                    with pytest.raises(EngineUnavailable, match="tokenizer") as told:
                        await asked
                    problem = problems.of(told.value)
                    assert (problem.status, problem.code) == (503, "engine_unavailable")
                    assert str(base.folder) not in problem.detail
                assert await local.score(ScoreRequest("other", (3, 4), ((5,),), "o"))
                aside.rename(missing)
                assert len(await served.score(wanted)) == 1

        try:
            asyncio.run(ask())
        finally:
            local.close()
