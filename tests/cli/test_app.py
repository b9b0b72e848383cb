import subprocess
import sys
from pathlib import Path

import pytest


def trimtab(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trimtab", *arguments], capture_output=True, text=True, cwd=cwd
    )


def test_init_then_check_names_the_missing_records(tmp_path: Path) -> None:
    assert trimtab("init", cwd=tmp_path).returncode == 0
    checked = trimtab("check", cwd=tmp_path)
    assert checked.returncode == 2
    assert "records.jsonl: no such file" in checked.stderr
    (tmp_path / "records.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    assert trimtab("check", cwd=tmp_path).returncode == 0


def test_init_never_overwrites(tmp_path: Path) -> None:
    trimtab("init", cwd=tmp_path)
    again = trimtab("init", cwd=tmp_path)
    assert (again.returncode, "exists already" in again.stderr) == (2, True)


@pytest.mark.parametrize("verb", ["run", "data", "plan", "status", "models", "serve"])
def test_without_a_project_every_verb_says_so_in_one_line(tmp_path: Path, verb: str) -> None:
    done = trimtab(verb, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no trimtab.yaml" in done.stderr


def test_verbose_shows_where(tmp_path: Path) -> None:
    done = trimtab("run", "--verbose", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
