"""Replays of dead letters and the end of content, through the command line and a real gateway."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import event

from tests.gateway.echo import Echo
from tests.gateway.offline_world import ended, jsonl, request, results, started, upload
from tests.gateway.world import PRICE, World, app_with, listening
from trimtab.cli.app import trimtab
from trimtab.gateway.offline import asking, files, retention, worker
from trimtab.gateway.tiers import breaker


@pytest.fixture
def client(world: World, echo: Echo, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setattr(asking, "BASE_S", 0.01)
    monkeypatch.setattr(asking, "ATTEMPTS", 2)
    monkeypatch.setattr(breaker, "FAILURES", 1000)
    monkeypatch.setattr(worker, "POLL_S", 0.1)
    with listening(app_with(world, echo), world.key.key, works=True) as speaking:
        yield speaking


def told(world: World, *words: str) -> dict[str, Any]:
    """What a verb says as JSON, on the home of a world."""
    folder = world.content.root.parent
    done = CliRunner().invoke(trimtab, [*words, "--home", str(folder), "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_replay_is_answered_in_its_place_and_paid_for_once(
    world: World, client: httpx.Client, echo: Echo
) -> None:
    echo.die_after = 2
    batch = started(client, jsonl([request("a", max_tokens=1), request("b"), request("c")]))
    first = ended(client, batch)
    assert first["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    before = world.account().spent_nano
    listed = told(world, "dead-letters", "list", "--reason", "engine_unavailable")
    assert [row["name"] for row in listed["dead_letters"]] == ["b", "c"]
    assert "payload" not in listed["dead_letters"][0]
    shown = told(world, "dead-letters", "show", listed["dead_letters"][0]["id"])
    assert (shown["payload"]["custom_id"], shown["attempts"]) == ("b", 2)

    again = told(world, "dead-letters", "replay", "--batch", batch, "--wait")
    assert again == {"taken": 2, "skipped": 0, "answered": 0, "dead_again": 2, "waiting": 0}
    [letter, _] = told(world, "dead-letters", "list")["dead_letters"]
    assert (letter["attempts"], letter["replays"]) == (4, 1)
    assert world.account().spent_nano == before

    echo.die_after = None
    done = told(world, "dead-letters", "replay", "--all", "--wait")
    assert (done["answered"], done["dead_again"]) == (2, 0)
    assert told(world, "dead-letters", "replay", "--all")["taken"] == 0
    last = ended(client, batch)
    assert (last["status"], last["error_file_id"]) == ("completed", None)
    found = results(client, last["output_file_id"])
    assert [line["custom_id"] for line in found] == ["a", "b", "c"]
    for gone in (first["output_file_id"], first["error_file_id"]):
        assert client.get(f"/v1/files/{gone}").status_code == 404
    costs = [round(line["response"]["body"]["cost_usd"] * 1e9) for line in found]
    assert costs[1] == PRICE.of(world.prompt_tokens, 5)
    assert world.account().spent_nano == sum(costs)
    assert len(world.log()) == 3


def test_a_replay_needs_no_input_file_any_more(
    world: World, client: httpx.Client, echo: Echo
) -> None:
    echo.die_after = 0
    batch = started(client, jsonl([request("a")]))
    file = ended(client, batch)["input_file_id"]
    assert client.delete(f"/v1/files/{file}").status_code == 200
    echo.die_after = None
    assert told(world, "dead-letters", "replay", "--all", "--wait")["answered"] == 1
    assert ended(client, batch)["request_counts"] == {"total": 1, "completed": 1, "failed": 0}


def test_letters_are_deleted_by_choice_and_never_by_a_slip(
    world: World, client: httpx.Client
) -> None:
    asks = [request("a", model="nobody"), request("b", prompt="word " * 3000)]
    ended(client, started(client, jsonl(asks)))
    folder = str(world.content.root.parent)
    slip = CliRunner().invoke(trimtab, ["dead-letters", "purge", "--home", folder])
    assert slip.exit_code == 2
    assert told(world, "dead-letters", "list")["total"] == 2
    assert told(world, "dead-letters", "purge", "--reason", "too_long")["deleted"] == 1
    [left] = told(world, "dead-letters", "list")["dead_letters"]
    assert left["reason"] == "model_not_found"
    assert told(world, "dead-letters", "purge", left["id"]) == {"deleted": 1, "skipped": 0}
    unknown = CliRunner().invoke(trimtab, ["dead-letters", "show", "dl_x", "--home", folder])
    assert unknown.exit_code != 0


def words_on_disk(world: World) -> bytes:
    found = [path for path in world.content.root.parent.rglob("*") if path.is_file()]
    with world.database.transaction() as connection:
        connection.exec_driver_sql("SELECT 1")
    return b"".join(path.read_bytes() for path in found if path.suffix not in (".db", ".db-wal"))


def test_what_is_over_is_deleted_and_what_is_not_stays(world: World, client: httpx.Client) -> None:
    asks = [request("a"), request("b", model="nobody")]
    batch = ended(client, started(client, jsonl(asks)))
    client.post("/v1/generate", json=request("x")["body"], headers={"Idempotency-Key": "order-7"})
    assert told(world, "purge") == {
        "answers": 0,
        "files": 0,
        "dead_letters": 0,
        "lines": 0,
        "orphans": 0,
        "words": 0,
        "kept_for_batches": 0,
    }
    with world.database.transaction() as connection:
        for table in ("files", "dead_letters", "replays"):
            connection.exec_driver_sql(f"UPDATE {table} SET expires_us = 1")
        connection.exec_driver_sql("UPDATE batches SET ended_us = 1")
    purged = told(world, "purge")
    assert (purged["files"], purged["dead_letters"], purged["answers"]) == (3, 1, 1)
    assert purged["lines"] == 2
    assert b"invoice" not in words_on_disk(world)
    assert list(world.content.older_than(-60)) == []
    assert statements(world, "DELETE FROM lines") == []
    told_still = client.get(f"/v1/batches/{batch['id']}").json()
    assert told_still["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert len(world.log()) == 2


def statements(world: World, kind: str) -> list[str]:
    """What a purge says to the database, of one kind."""
    said: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        said.append(" ".join(statement.split()))

    engine = world.database._engine
    event.listen(engine, "before_cursor_execute", note)
    retention.purge(world.database, world.content)
    event.remove(engine, "before_cursor_execute", note)
    return [each for each in said if each.startswith(kind)]


def test_all_content_of_one_owner_goes_but_what_a_batch_works_on(
    world: World, client: httpx.Client, echo: Echo
) -> None:
    ended(client, started(client, jsonl([request("a"), request("b", model="nobody")])))
    echo.pause_s = 0.5
    running = started(client, jsonl([request("slow")]))
    folder = str(world.content.root.parent)
    asked = CliRunner().invoke(trimtab, ["purge", "--all", "--home", folder], input="n\n")
    assert asked.exit_code != 0
    stranger = told(world, "purge", "--all", "--yes", "--owner", "nobody")
    assert (stranger["files"], stranger["kept_for_batches"]) == (0, 0)
    purged = told(world, "purge", "--all", "--yes", "--owner", "somebody")
    assert (purged["files"], purged["dead_letters"], purged["kept_for_batches"]) == (3, 1, 1)
    done = ended(client, running)
    assert (done["status"], done["request_counts"]["completed"]) == ("completed", 1)
    assert len(results(client, done["output_file_id"])) == 1


def test_a_blob_that_a_crash_left_goes_in_a_while(
    world: World, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(client, jsonl([request("a")]))
    lost = files.store(world.content, "file-lost", [b"words\n"])
    assert retention.purge(world.database, world.content).orphans == 0
    monkeypatch.setattr(files, "ORPHAN_S", -60.0)
    upload(client, jsonl([request("b")]))
    assert retention.purge(world.database, world.content).orphans == 1
    assert not world.content.path(lost).exists()
    assert len(list(world.content.older_than(-60))) == 2
    assert len(statements(world, "SELECT files.blob")) == 1
