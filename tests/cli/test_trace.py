"""`trimtab trace` of an answer's id: whose it was, and what was said where that is kept."""

import json
import sys
from pathlib import Path

import pytest

from tests.gateway.world import World, build_world
from tests.tiny import build_tokenizer
from trimtab.cli import main
from trimtab.journal import requests, words
from trimtab.journal.requests import Answered

ID = "req_1"


def test_the_words_of_an_answer_that_no_version_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = build_world(tmp_path, build_tokenizer(tmp_path / "base"))
    answered(world)

    def trace(*arguments: str) -> tuple[int | str | None, str]:
        monkeypatch.setattr(sys, "argv", ["trimtab", "trace", ID, "--home", str(tmp_path)])
        monkeypatch.setattr(sys, "argv", [*sys.argv, *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, capsys.readouterr().out

    code, told = trace("--words", "--json")
    assert code == 0
    said = {"asked": "why?" * 5000, "answered": "Later.", "cut": True}
    said["asked"] = str(said["asked"])[: words.MOST_CHARACTERS]
    assert json.loads(told) == {"chains": [], "words": said}
    code, told = trace("--words")
    assert code == 0
    assert "Later." in told
    assert "the first 16,384 characters" in told
    assert "no version gave this answer" in told
    assert trace()[0] == 0
    world.database.close()


def answered(world: World) -> None:
    """By the safe template, after a long question."""
    entry = Answered(id=ID, trace_id="t", route="generate", status=200, latency_ms=1.0)
    kept = words.of(ID, world.key.id, "somebody", "why?" * 5000, "Later.", entry.created_us)
    with world.database.transaction() as connection:
        requests.record_all(connection, [entry])
        words.record_all(connection, [kept])
