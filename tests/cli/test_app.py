import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.test_supervisor import make_home
from tests.tiny_project import write_project


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


def test_status_fits_a_narrow_terminal_and_tells_the_whole_as_json(tmp_path: Path) -> None:
    home = ["--home", str(make_home(tmp_path))]
    environment = {**os.environ, "COLUMNS": "80"}
    command = [sys.executable, "-m", "trimtab", "status", *home]
    shown = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert shown.returncode == 0
    assert max(len(line) for line in shown.stdout.splitlines()) <= 80
    [found] = json.loads(trimtab("status", *home, "--json", cwd=tmp_path).stdout)["deployments"]
    assert f"version {found['live']['model_version'][:12]} since" in shown.stdout
    assert "none yet; the SLO is p95 under 1200 ms, availability 99.5 %" in shown.stdout
    assert found["live"].keys() == {
        "model_version",
        "since",
        "why",
        "exact_match",
        "base_exact_match",
    }


def test_status_does_not_fall_back_to_a_default_slo_for_a_broken_project(tmp_path: Path) -> None:
    home = ["--home", str(make_home(tmp_path))]
    (tmp_path / "trimtab.yaml").write_text("name: tiny\nbas: x\n")
    done = trimtab("status", *home, cwd=tmp_path)
    assert (done.returncode, "unknown field 'bas'" in done.stderr) == (2, True)


def test_data_lists_what_was_dropped_as_json_too(tmp_path: Path) -> None:
    file = write_project(tmp_path)
    lines = (tmp_path / "tickets.jsonl").read_text().splitlines()
    (tmp_path / "tickets.jsonl").write_text("\n".join([*lines, lines[0]]) + "\n")
    found = json.loads(trimtab("data", str(file), "--json", cwd=tmp_path).stdout)
    assert [drop["line"] for drop in found["dropped"]] == [161]
    assert found["steps"]["data"]["counts"]["read"] == 161


def test_a_missing_extra_is_named_and_no_bug(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no', name='torch')\n")
    file = write_project(tmp_path)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "trimtab", "plan", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last == "trimtab: torch is not installed - pip install 'trimtab[train,serve]'"


def test_a_folder_that_cannot_be_written_is_no_bug(tmp_path: Path) -> None:
    """/proc takes no files, from root neither."""
    done = trimtab("init", "/proc/desk", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
