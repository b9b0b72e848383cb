"""Mutation testing of what guards money: ledger, limits and breaker, with mutmut.

    make test-mutation

Every mutant is one small fault planted in a copy of the code; it is killed if a test fails. The
tests are the fast ones of those rooms, on SQLite: whoever needs a server, another process or half a
minute kills no mutant that these should have killed. Writes docs/campaigns/mutation.json; below
85 % is a violation.

mutmut is in an environment of its own: TRIMTAB_MUTMUT names one, else it is made under build/.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.machine import ROOT

from tests.campaigns import record

LEAST = 0.85
MUTATED = (
    *(f"src/trimtab/ledger/{name}.py" for name in ("accounts", "holds", "money", "prices")),
    *(f"src/trimtab/ledger/{name}.py" for name in ("recovery", "reservation", "till")),
    *(f"src/trimtab/gateway/{name}.py" for name in ("breaker", "gcra", "limits", "retry")),
)
TESTS = (
    *(f"tests/ledger/test_{name}.py" for name in ("holds", "money", "prices", "recovery", "till")),
    *(f"tests/gateway/test_{name}.py" for name in ("breaker", "gcra", "meters", "retry")),
)
LEFT_OUT = "not postgresql and not processes and not TestSpending"
NEEDED = (
    "alembic click fastapi filelock httptools httpx hypothesis jinja2 platformdirs psutil pydantic "
    "pytest pytest-timeout pyyaml rensa rich sqlalchemy tokenizers uvicorn uvloop websockets"
)
MUTMUT = "mutmut==3.8.1"


def main() -> int:
    """Returns 1 where too many mutants live."""
    with TemporaryDirectory() as name:
        copy = Path(name)
        for folder in ("src", "tests", "benchmarks"):
            shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("*.pyc"))
        # The doors of the suite that need the repository around them stay behind.
        (copy / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + settings())
        python = environment() / "bin" / "python"
        environ = {**os.environ, "PYTHONPATH": "src:."}
        command = [str(python), "-m", "mutmut", "run", "--max-children", "2"]
        subprocess.run(command, cwd=copy, check=True, env=environ)
        for verb in ("export-cicd-stats", "results"):
            subprocess.run([str(python), "-m", "mutmut", verb], cwd=copy, check=True, env=environ)
        found = json.loads((copy / "mutants" / "mutmut-cicd-stats.json").read_text())
    killed = found["killed"] + found.get("timeout", 0)
    counts = {"mutants": found["total"], "killed": killed, "survived": found["total"] - killed}
    share = killed / found["total"]
    print(f"{share:.1%} killed; wrote {record('mutation', int(share < LEAST), counts)}")
    return int(share < LEAST)


def settings() -> str:
    """What mutmut is told, in the copy's project file."""
    wanted = {
        "source_paths": ["src"],
        "only_mutate": list(MUTATED),
        "also_copy": ["benchmarks"],
        "pytest_add_cli_args": ["-k", LEFT_OUT, "-p", "no:cacheprovider"],
        "pytest_add_cli_args_test_selection": list(TESTS),
        "use_git_change_detection": False,
        "track_dependencies": False,
    }
    lines = (f"{name} = {json.dumps(value)}" for name, value in wanted.items())
    return "\n[tool.mutmut]\n" + "\n".join(lines) + "\n"


def environment() -> Path:
    """mutmut among the packages that these rooms need, at the versions of the constraints."""
    named = os.environ.get("TRIMTAB_MUTMUT")
    folder = Path(named) if named else ROOT / "build" / "mutmut"
    if not (folder / "bin" / "mutmut").exists():
        version = f"py{sys.version_info[0]}{sys.version_info[1]}"
        pins = ROOT / "constraints" / f"{version}.txt"
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(folder / "bin" / "pip"), "install", "-q", "-c", str(pins)]
        subprocess.run([*install, *NEEDED.split(), "psycopg[binary]", MUTMUT], check=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
