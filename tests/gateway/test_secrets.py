"""Prompts, answers and secrets are written nowhere: a canary in each, and a look at everything."""

import logging
from pathlib import Path

import httpx
import pytest

from tests.gateway.echo import Echo
from tests.gateway.world import World, app_with, listening
from trimtab.errors import EngineUnavailable
from trimtab.inference import GenerateRequest, ScoreRequest

CANARY = "canary-7f3e91"


class Quoting(Echo):
    """Fails as it is told, and quotes what it was asked."""

    error: Exception | None = None

    def _take(self, request: GenerateRequest | ScoreRequest) -> None:
        if self.error is not None:
            raise self.error
        super()._take(request)


def test_what_was_asked_and_said_is_written_nowhere(
    world: World,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    # Other people's loggers speak of what this very test sends.
    for chatty in ("httpcore", "httpx", "openai"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    engine = Quoting(word=f"{CANARY}-said ")
    prompt = f"{CANARY}-asked"
    wrong = f"tt_00000000_{CANARY}-secret"
    messages = [{"role": "user", "content": prompt}]
    with listening(app_with(world, engine), world.key.key) as client:
        errors = (None, RuntimeError(prompt), KeyError(prompt), EngineUnavailable("gone"))
        for engine.error in errors:
            for stream in (False, True):
                ask = {"model": "desk", "stream": stream}
                client.post("/v1/generate", json={**ask, "prompt": prompt})
                client.post("/v1/chat/completions", json={**ask, "messages": messages})
            client.post(
                "/v1/score", json={"model": "desk", "prompt": prompt, "completions": [prompt]}
            )
        for unfit in ({"prompt": [prompt]}, {"prompt": prompt, prompt: 1}, {"model": prompt}):
            client.post("/v1/generate", json={"model": "desk", **unfit})
        client.post("/v1/generate", content=prompt.encode())
        client.get(f"/{prompt}", headers={"Authorization": f"Bearer {wrong}"})
        client.get("/v1/models", headers={"Authorization": f"Bearer {wrong}"})
        assert client.get("/healthz").status_code == 200
    assert len(world.log()) >= 12
    written = caplog.text + "".join(capfd.readouterr())
    assert "internal error: RuntimeError at" in written
    held = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"desk" in held
    for secret in (CANARY, world.key.key, world.key.key.rpartition("_")[2]):
        assert secret not in written
        assert secret.encode() not in held


def test_a_fault_of_ours_is_told_without_our_insides(world: World) -> None:
    engine = Quoting()
    with listening(app_with(world, engine), world.key.key) as client:
        engine.error = RuntimeError("/home/us/secret")
        answer: httpx.Response = client.post("/v1/generate", json={"model": "desk", "prompt": "x"})
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert "secret" not in answer.text
        assert answer.headers["traceparent"].split("-")[1] == answer.json()["trace_id"]
        streamed = client.post(
            "/v1/generate", json={"model": "desk", "prompt": "x", "stream": True}
        )
        assert '"code":"internal_error"' in streamed.text
        assert "secret" not in streamed.text
    assert world.account().held_nano == 0
