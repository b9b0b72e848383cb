from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.tiny_project import write_pairs, write_project
from trimtab.cli.app import trimtab
from trimtab.errors import DataError
from trimtab.flows.preview import preview
from trimtab.project import Project


def test_it_shows_what_carries_loss_and_trains_nothing(tmp_path: Path) -> None:
    file = write_project(tmp_path, 40)
    found = preview(Project.load(file))
    given, learnt, *behind = found.pieces[0]
    assert (given.kind, learnt.kind) == ("given", "learnt")
    assert given.text.endswith("<|im_start|>assistant\n")
    assert learnt.text.startswith("{") and learnt.text.endswith("<|im_end|>")  # noqa: PT018
    assert [piece.kind for piece in behind] == ["given"]
    assert not any((tmp_path / ".trimtab" / "runs").glob("*"))


def test_a_pair_shows_what_is_held_against_the_answer(tmp_path: Path) -> None:
    file = write_project(tmp_path, train={"objective": "dpo"})
    write_pairs(tmp_path / "tickets.jsonl", 40)
    [first, *_] = preview(Project.load(file)).pieces
    assert [piece.kind for piece in first] == ["given", "learnt", "against"]
    assert first[2].text.startswith("Sorry, I cannot help")


def test_where_answers_are_its_own_the_prompt_alone_is_shown(tmp_path: Path) -> None:
    file = write_project(tmp_path, 40, train={"objective": "grpo"})
    pieces = preview(Project.load(file)).pieces
    assert [piece.kind for piece in pieces[0]] == ["given"]


def test_the_command_shows_the_table_and_the_records(tmp_path: Path) -> None:
    write_project(tmp_path, 40)
    done = CliRunner().invoke(trimtab, ["train", "--preflight", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "supervised share" in done.output
    assert "held against" in done.output


def test_what_is_learnt_and_what_it_is_held_against_have_colours_of_their_own(
    tmp_path: Path,
) -> None:
    write_project(tmp_path, train={"objective": "dpo"})
    write_pairs(tmp_path / "tickets.jsonl", 40)
    command = ["train", "--preflight", str(tmp_path)]
    asked = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "200"}
    said = CliRunner().invoke(trimtab, command, env=asked).output
    assert "\x1b[1;32m{" in said
    assert "\x1b[31mSorry, I cannot help" in said
    assert "\x1b[2m<|im_start|>" in said


def test_a_record_that_cannot_be_trained_on_is_named(tmp_path: Path) -> None:
    file = write_project(tmp_path, 40, train={"max_length": 20})
    with pytest.raises(DataError, match="no record is left"):
        preview(Project.load(file))
