import asyncio
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.gateway.echo import Echo
from tests.gateway.world import World, app_with, listening
from trimtab.errors import EngineUnavailable
from trimtab.gateway import models
from trimtab.gateway.app import create_app
from trimtab.gateway.catalogue import Catalogue
from trimtab.inference import Engine
from trimtab.registry import bases, deployments, versions
from trimtab.registry.bases import Base
from trimtab.registry.versions import ModelVersion
from trimtab.store.database import Connection


def test_a_deployment_says_what_is_live_and_what_it_costs(
    world: World, client: httpx.Client
) -> None:
    assert client.get("/v1/models").json()["models"] == [
        {
            "name": "desk",
            "live": world.adapter.hash,
            "candidate": None,
            "base": world.base.spec.base,
            "adapters": ["a" * 64],
            "context": 256,
            "price": {
                "prompt_usd_per_million_tokens": 1.0,
                "completion_usd_per_million_tokens": 7.0,
                "cached_usd_per_million_tokens": 1.0,
            },
            "capabilities": {
                "generate": True,
                "score": True,
                "lora_mixed": True,
                "lora_hot": True,
                "prefix_cache": False,
                "priority": False,
                "grammar": False,
                "kernels": None,
                "methods": {"lora": "mixed"},
            },
        }
    ]


def test_a_candidate_is_named_while_it_is_tried(world: World, client: httpx.Client) -> None:
    with world.database.transaction() as connection:
        versions.set_state(connection, world.unverified.hash, "verified")
        deployments.candidate(connection, "desk", world.unverified.hash, 3)
    [model] = client.get("/v1/models").json()["models"]
    assert (model["candidate"], model["adapters"]) == (
        world.unverified.hash,
        ["a" * 64, "c" * 64],
    )


def test_without_its_engine_a_deployment_is_listed_but_not_ready(world: World) -> None:
    async def ready(version: ModelVersion) -> Engine:
        raise EngineUnavailable("/run/engine.sock: gone")

    with listening(create_app(world.database, ready, world.content), world.key.key) as client:
        [model] = client.get("/v1/models").json()["models"]
        assert (model["context"], model["capabilities"]) == (None, None)
        refused = client.get("/readyz")
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
        answer = client.post("/v1/generate", json={"model": "desk", "prompt": "x"})
        assert (answer.status_code, answer.json()["code"]) == (503, "engine_unavailable")
    [logged] = world.log()
    assert (logged.status, logged.model_version, logged.runtime) == (503, world.adapter.hash, None)


def test_ready_means_that_every_live_version_is_loaded(world: World, echo: Echo) -> None:
    with world.database.transaction() as connection:
        deployments.create(connection, "other", "support-desk", world.base.hash)
    with listening(app_with(world, echo)) as client:
        assert client.get("/readyz").status_code == 200
    assert echo.loaded == {world.adapter.hash, world.base.hash}


def test_a_deployment_that_cannot_answer_is_listed_and_costs_the_others_nothing(
    world: World, echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "READY_S", 0.2)
    with world.database.transaction() as connection:
        gone = Base("d" * 64, "gone", tmp_path / "gone", {}, 1)
        bases.add(connection, gone)
        spec = replace(world.adapter.spec, base=gone.hash)
        damaged = ModelVersion(spec, project="support-desk", state="live")
        spec = replace(world.adapter.spec, adapter="e" * 64)
        slow = ModelVersion(spec, project="support-desk", state="live")
        for name, version in (("damaged", damaged), ("slow", slow)):
            versions.add(connection, version)
            deployments.create(connection, name, "support-desk", version.hash)

    async def ready(version: ModelVersion) -> Engine:
        if version.hash == slow.hash:
            await asyncio.sleep(60)
        return echo

    app = create_app(world.database, ready, world.content)
    with listening(app, world.key.key) as client:
        listed = client.get("/v1/models").json()
        assert client.get("/v1/models/damaged").json()["id"] == "damaged"
        assert client.get("/readyz").status_code == 503
    found = {each["name"]: each for each in listed["models"]}
    assert {name: each["context"] for name, each in found.items()} == {
        "desk": 256,
        "damaged": None,
        "slow": None,
    }
    assert found["damaged"]["base"] == gone.hash
    assert found["slow"]["capabilities"] is None


def test_a_promotion_in_the_middle_of_a_look_up_breaks_nothing(world: World, echo: Echo) -> None:
    known = app_with(world, echo).state.desk.catalogue

    def promoted(connection: Connection, content: str) -> None:
        """Another look-up reads what is deployed, and something else is live by now."""
        Catalogue._look_below(known, connection, content)
        known._deployments = {
            name: replace(deployment, blue=world.unverified.hash, green=world.unverified.hash)
            for name, deployment in known._deployments.items()
        }

    known._look_below = promoted
    with world.database.read() as connection:
        found = known._look_up(connection, "desk")
    assert found.tiers[0].hash == world.adapter.hash
