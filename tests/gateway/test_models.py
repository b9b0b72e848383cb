import httpx

from tests.gateway.echo import Echo
from tests.gateway.world import World, app_with, listening
from trimtab.errors import EngineUnavailable
from trimtab.gateway.app import create_app
from trimtab.inference import Engine
from trimtab.registry import deployments, versions
from trimtab.registry.versions import ModelVersion


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
            },
            "capabilities": {
                "generate": True,
                "score": True,
                "lora_mixed": True,
                "lora_hot": True,
                "prefix_cache": False,
                "priority": False,
                "grammar": False,
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
