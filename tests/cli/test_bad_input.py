"""What a user gets wrong: one line with a hint, exit code 2, and nothing half-written."""

import socket
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from tests.crash.state import leftovers
from tests.disks import SIZE
from tests.tiny_project import write_records
from trimtab.cli import main
from trimtab.store.home import Home

Trimtab = Callable[..., str]


@pytest.fixture
def trimtab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Trimtab:
    """Runs a command that the user got wrong; the one line that it says."""

    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        said = [line for line in capsys.readouterr().err.splitlines() if line[0] not in "✓="]
        assert (left.value.code, len(said)) == (2, 1), said
        assert said[0].startswith("trimtab: ")
        assert " - " in said[0], "without a hint"
        return said[0]

    return run


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A project file beside forty good records."""
    write_records(tmp_path / "tickets.jsonl", 40)
    return write(tmp_path / "trimtab.yaml")


def write(file: Path, **changes: object) -> Path:
    content = {
        "name": "desk",
        "base": "smollm2-135m-instruct-q4",
        "data": {"sources": [{"path": "tickets.jsonl"}], "holdout": 0.2, "shadow": 0.1},
    }
    file.write_text(yaml.safe_dump(content | changes))
    return file


def nothing_is_half_written(home: Path) -> bool:
    if leftovers(home) or list(home.glob("blobs/??/*")):
        return False
    with closing(sqlite3.connect(home / "trimtab.db")) as connection:
        tables = ("datasets", "records", "versions", "deployments")
        return not any(connection.execute(f"SELECT 1 FROM {table}").fetchone() for table in tables)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nmae: desk\n", "unknown field 'nmae' (and 3 more: trimtab check) - did you mean 'name'?"),
        ("- desk\n", "holds no project"),
        ("", "holds no project"),
        ("a: [\n", ":2: "),
        ("a: 1\na: 2\n", ":2: 'a' stands twice"),
    ],
)
def test_a_project_file(trimtab: Trimtab, tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "trimtab.yaml"
    file.write_text(text)
    assert says in trimtab("run", file)
    assert not (tmp_path / ".trimtab").exists()


def test_a_project_file_in_another_encoding(trimtab: Trimtab, tmp_path: Path) -> None:
    (tmp_path / "trimtab.yaml").write_bytes("name: café".encode("latin-1"))
    assert "not UTF-8 at byte 9" in trimtab("run", tmp_path)


def test_a_project_that_is_not_there(trimtab: Trimtab, tmp_path: Path) -> None:
    assert "no such file" in trimtab("run", tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("fourth", "says"),
    [
        (b'{"prompt": "hello"}', "tickets.jsonl:4: no answer"),
        (b'{"prompt": "hello", "completion": ""}', "tickets.jsonl:4: no answer"),
        (b'{"prompt": "hello \xff", "completion": "a"}', "tickets.jsonl:4: not UTF-8 at byte"),
        (b'{"prompt": "hello"', "tickets.jsonl:4: not JSON"),
        (b'["hello"]', "tickets.jsonl:4: not an object"),
        (b'{"question": "hello"}', "tickets.jsonl:4: unknown layout"),
    ],
)
def test_a_record(trimtab: Trimtab, desk: Path, fourth: bytes, says: str) -> None:
    file = desk.with_name("tickets.jsonl")
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([*lines[:3], fourth, *lines[3:]]))
    assert says in trimtab("run", desk)
    assert nothing_is_half_written(desk.with_name(".trimtab"))
    assert says in trimtab("check", desk)


def test_no_records_at_all(trimtab: Trimtab, desk: Path) -> None:
    desk.with_name("tickets.jsonl").write_text("\n\n")
    assert "tickets.jsonl: holds no records" in trimtab("run", desk)
    assert nothing_is_half_written(desk.with_name(".trimtab"))


def test_a_source_that_is_not_there(trimtab: Trimtab, desk: Path) -> None:
    desk.with_name("tickets.jsonl").unlink()
    assert "tickets.jsonl: no such file" in trimtab("run", desk)
    assert "tickets.jsonl: no such file" in trimtab("check", desk)


def test_a_base_that_nobody_knows(trimtab: Trimtab, desk: Path) -> None:
    write(desk, base="smollm2-135m-instruct-q5")
    for verb in ("check", "plan"):
        assert "did you mean 'smollm2-135m-instruct-q4'?" in trimtab(verb, desk)


def test_a_base_that_is_no_model(trimtab: Trimtab, desk: Path) -> None:
    desk.with_name("mine").mkdir()
    write(desk, base="mine")
    assert "mine has no config.json" in trimtab("plan", desk)


def test_a_project_that_runs_already(trimtab: Trimtab, desk: Path) -> None:
    with Home(desk.with_name(".trimtab")).lock("desk"):
        assert "'desk' is in use by process" in trimtab("run", desk)


def test_a_home_that_cannot_be_written(trimtab: Trimtab, desk: Path) -> None:
    """/proc takes no files, from root neither."""
    for verb in ("run", "status", "models"):
        assert "--home FOLDER" in trimtab(verb, desk, "--home", "/proc/desk")


@pytest.mark.parametrize("room", [4_000, 16_000, 330_000])
def test_a_full_disk(trimtab: Trimtab, desk: Path, tiny_disk: Path, room: int) -> None:
    """Full at the first table, and full at the dataset."""
    (tiny_disk / "filler").write_bytes(b"x" * (SIZE - SIZE % 4096 - room))
    assert "free some space" in trimtab("data", desk, "--home", tiny_disk / "home")
    assert not leftovers(tiny_disk / "home")


def test_a_port_in_use(trimtab: Trimtab, desk: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} on 127.0.0.1 is in use" in trimtab("serve", desk, "--port", str(port))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("rnu",), "No such command 'rnu'. Did you mean 'run'? - see: trimtab --help"),
        (("run", "--nope"), "see: trimtab run --help"),
        (("serve", "--port", "http"), "see: trimtab serve --help"),
        (("keys", "create"), "Missing argument 'NAME' - see: trimtab keys create --help"),
    ],
)
def test_a_command_line(trimtab: Trimtab, arguments: tuple[str, ...], says: str) -> None:
    assert says in trimtab(*arguments)
