"""Files: what is taken, who can read it, and when it goes."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from tests.gateway.offline_world import jsonl, request, upload
from tests.gateway.world import World
from trimtab.gateway import keys
from trimtab.gateway.entrance import door
from trimtab.gateway.offline import files, requests, uploads

GOOD = jsonl([request("a"), request("b")])


@pytest.fixture
def theirs(world: World, client: httpx.Client) -> Iterator[OpenAI]:
    made = OpenAI(api_key=world.key.key, base_url=f"{client.base_url}/v1", max_retries=0)
    yield made
    made.close()


def words_on_disk(world: World) -> bytes:
    found = [path for path in world.content.root.rglob("*") if path.is_file()]
    return b"".join(path.read_bytes() for path in found)


def test_openais_client_uploads_lists_reads_and_deletes(theirs: OpenAI, world: World) -> None:
    made = theirs.files.create(
        file=("asks.jsonl", GOOD),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 7200},
    )
    assert (made.object, made.purpose, made.filename) == ("file", "batch", "asks.jsonl")
    assert (made.bytes, made.status) == (len(GOOD), "processed")
    assert made.expires_at == made.created_at + 7200
    other = theirs.files.create(file=("more.jsonl", GOOD), purpose="batch")
    assert other.expires_at == other.created_at + 30 * 24 * 3600
    assert [file.id for file in theirs.files.list()] == [other.id, made.id]
    assert [file.id for file in theirs.files.list(order="asc", limit=1)] == [made.id, other.id]
    assert theirs.files.retrieve(made.id) == made
    assert theirs.files.content(made.id).read() == GOOD
    assert theirs.files.delete(made.id).deleted
    assert [file.id for file in theirs.files.list(purpose="batch")] == [other.id]
    assert theirs.files.content(other.id).read() == GOOD


def test_another_owners_file_cannot_be_had(world: World, client: httpx.Client) -> None:
    file = upload(client, GOOD).json()["id"]
    with world.database.transaction() as connection:
        stranger = keys.create(connection, "stranger", "stranger")
        friend = keys.create(connection, "friend", "somebody")
    for key, status in ((stranger, 404), (friend, 200)):
        headers = {"Authorization": f"Bearer {key.key}"}
        for path in (f"/v1/files/{file}", f"/v1/files/{file}/content"):
            assert client.get(path, headers=headers).status_code == status
        listed = client.get("/v1/files", headers=headers).json()["data"]
        assert len(listed) == (1 if status == 200 else 0)
    refused = client.delete(
        f"/v1/files/{file}", headers={"Authorization": f"Bearer {stranger.key}"}
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "file_not_found")
    assert client.get(f"/v1/files/{file}/content").content == GOOD


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "file: holds no requests"),
        (b"\n\n", "file: holds no requests"),
        (GOOD + b"{oops}\n", "line 3: body: not JSON"),
        (b"\xff\n", "line 1: body: not"),
        (b"[" * 100_000 + b"\n", "line 1: body: not JSON"),
        (b"[]\n", "line 1: body:"),
        (jsonl([request("a"), request("a")]), "line 2: custom_id: 'a' stands twice"),
        (jsonl([{**request("a"), "method": "GET"}]), "line 1: method:"),
        (jsonl([{**request("a"), "more": 1}]), "line 1: more: unknown field"),
        (jsonl([{**request("a"), "url": "http://169.254.169.254/"}]), "line 1: url:"),
        (jsonl([request("")]), "line 1: custom_id:"),
        (jsonl([request("a", max_tokens=0)]), "line 1: body.max_tokens:"),
        (jsonl([request("a", max_token=1)]), "did you mean 'max_tokens'?"),
        (jsonl([request("a", stream=True)]), "line 1: body.stream: a batch does not stream"),
        (jsonl([request("a", seed=1), request("b", "/v1/score")]), "line 2: body."),
        (
            jsonl([request("a"), {**request("b"), "url": "/v1/completions"}]),
            "line 2: url: is /v1/completions, and the lines before /v1/generate",
        ),
    ],
)
def test_a_line_that_does_not_fit_is_named_and_nothing_is_kept(
    world: World, client: httpx.Client, data: bytes, told: str
) -> None:
    answer = upload(client, data)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert told in answer.json()["error"]["message"]
    assert words_on_disk(world) == b""
    assert client.get("/v1/files").json()["data"] == []


def test_what_is_too_large_is_refused(
    world: World, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = upload(client, b'{"custom_id": "' + b"x" * (requests.LINE_BYTES + 1) + b'"}\n')
    assert "line 1: is longer than 1048576 bytes" in long.text
    monkeypatch.setattr(requests, "LINES", 1)
    assert "line 2: a file may hold 1 requests" in upload(client, GOOD).text
    monkeypatch.undo()
    monkeypatch.setattr(door, "UPLOAD_LIMIT", len(GOOD) - 1)
    assert upload(client, GOOD).status_code == 413
    monkeypatch.undo()
    assert upload(client, GOOD).status_code == 200
    monkeypatch.setattr(files, "OWNER_BYTES", 2 * len(GOOD) - 1)
    full = upload(client, GOOD)
    assert (full.status_code, full.json()["error"]["code"]) == (413, "files_full")
    assert len(list(world.content.older_than(0))) == 1


@pytest.mark.parametrize(
    "form",
    [
        {"data": {"purpose": "batch"}},
        {"data": {"purpose": "fine-tune"}, "files": {"file": ("a", GOOD)}},
        {"files": {"file": ("a", GOOD)}},
        {
            "data": {"purpose": "batch", "expires_after[seconds]": "10"},
            "files": {"file": ("a", GOOD)},
        },
        {"json": {"file": "/etc/passwd", "purpose": "batch"}},
        {"data": {"purpose": "batch", "file": "/etc/passwd"}},
        {"content": b"--x\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
    ],
)
def test_a_form_that_does_not_fit_is_refused(client: httpx.Client, form: dict[str, object]) -> None:
    answer = client.post("/v1/files", **form)  # type: ignore[arg-type]
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\users\\asks.jsonl", "asks.jsonl"),
        ("a\x00b\r\nc", "abc"),
        ("", "requests.jsonl"),
        ("x" * 1000, "x" * 255),
    ],
)
def test_a_name_is_a_label_and_no_place(given: str, kept: str) -> None:
    assert uploads._name(given) == kept


@pytest.mark.parametrize(
    ("name", "status"),
    [("..", 404), ("%2e%2e%2fkeys", 404), ("file-x%00", 400), ("'; DROP TABLE files", 404)],
)
def test_no_path_can_be_asked_for(client: httpx.Client, name: str, status: int) -> None:
    assert client.get(f"/v1/files/{name}/content").status_code == status


def test_a_file_whose_time_is_over_is_gone(world: World, client: httpx.Client) -> None:
    file = upload(client, GOOD).json()["id"]
    with world.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE files SET expires_us = 1")
    assert client.get(f"/v1/files/{file}").status_code == 404
    assert client.get("/v1/files").json()["data"] == []


def test_the_words_of_a_deleted_file_are_off_the_disk(world: World, client: httpx.Client) -> None:
    one, two = (upload(client, GOOD).json()["id"] for _ in "ab")
    assert client.delete(f"/v1/files/{one}").status_code == 200
    assert one.encode() not in words_on_disk(world)
    assert client.get(f"/v1/files/{two}/content").content == GOOD
    assert client.delete(f"/v1/files/{two}").status_code == 200
    assert b"invoice" not in words_on_disk(world)


def test_a_file_is_checked_line_by_line_without_being_read_whole(tmp_path: Path) -> None:
    data = tmp_path / "asks.jsonl"
    data.write_bytes(b"\n" + GOOD + b"\n")
    with data.open("rb") as file:
        checked = requests.Checked(file)
        assert b"".join(checked) == data.read_bytes()
    assert (checked.lines, checked.endpoint) == (2, "/v1/generate")
    [first] = requests.next_lines(data, 0, 1)
    assert json.loads(first.data)["custom_id"] == "a"
    assert requests.line_at(data, first.offset, first.length) == first.data
    [second] = requests.next_lines(data, first.offset + first.length, 9)
    assert json.loads(second.data)["custom_id"] == "b"
