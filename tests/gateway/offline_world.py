"""Batches for tests: files to upload, and a gateway that works them."""

import json
from collections.abc import Sequence
from typing import Any

import httpx

from tests.gateway.world import PROMPT, until
from trimtab.gateway.offline import batches

ASK = {"model": "desk", "prompt": PROMPT, "max_tokens": 5}


def request(custom_id: str, url: str = "/v1/generate", **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {**ASK, **body}}


def jsonl(requests: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in requests)


def upload(client: httpx.Client, data: bytes, name: str = "asks.jsonl") -> httpx.Response:
    return client.post("/v1/files", files={"file": (name, data)}, data={"purpose": "batch"})


def started(client: httpx.Client, data: bytes, endpoint: str = "/v1/generate", **more: Any) -> str:
    """The id of a batch of these requests."""
    file = upload(client, data)
    assert file.status_code == 200, file.text
    body = {"input_file_id": file.json()["id"], "endpoint": endpoint, "completion_window": "24h"}
    made = client.post("/v1/batches", json=body | more)
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


def ended(client: httpx.Client, batch: str, seconds: float = 30.0) -> dict[str, Any]:
    """A batch once it is over."""
    until(lambda: shown(client, batch)["status"] in batches.ENDED, seconds)
    return shown(client, batch)


def shown(client: httpx.Client, batch: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/batches/{batch}").json()
    return found


def results(client: httpx.Client, file: str | None) -> list[dict[str, Any]]:
    """The lines of a batch's output or error file."""
    if file is None:
        return []
    return [json.loads(line) for line in client.get(f"/v1/files/{file}/content").text.splitlines()]
