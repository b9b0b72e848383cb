"""Mutation testing of what guards money: ledger, limits and breaker, with mutmut.

    make test-mutation

Every mutant is one small fault planted in a copy of the code; it is killed if a test fails. The
tests are the fast ones of those rooms, on SQLite: whoever needs a server, another process or half a
minute kills no mutant that these should have killed. Writes docs/campaigns/mutation.json; below
85 % is a violation.

The copy stays under build/, so that a campaign that was interrupted goes on where it was. A mutant
that was killed stays killed until its function changes; those that lived are tried again whenever
a test changed. As many at once as there are processors to run on (`taskset -c 0` for one).

mutmut is in an environment of its own: TRIMTAB_MUTMUT names one, else it is made under build/.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import ROOT

from tests.campaigns import record

LEAST = 0.85
MUTATED = (
    *(f"src/trimtab/ledger/{name}.py" for name in ("accounts", "money", "prices")),
    *(f"src/trimtab/ledger/{name}.py" for name in ("recovery", "reservation", "till")),
    *(f"src/trimtab/gateway/{name}.py" for name in ("breaker", "gcra", "limits", "retry")),
)
TESTS = (
    *(f"tests/ledger/test_{name}.py" for name in ("holds", "money", "prices", "recovery", "till")),
    *(f"tests/gateway/test_{name}.py" for name in ("breaker", "gcra", "meters", "retry")),
)
LEFT_OUT = "not postgresql and not processes and not TestSpending"
# The first failure is enough: nobody reads the smallest example of a mutant's fault.
QUICK = ("--hypothesis-profile=mutation", "--assert=plain")
NEEDED = (
    "alembic click fastapi filelock httptools httpx hypothesis jinja2 platformdirs psutil pydantic "
    "pytest pytest-timeout python-multipart pyyaml rensa rich sqlalchemy tokenizers uvicorn uvloop "
    "websockets"
)
MUTMUT = "mutmut==3.8.1"
COPY = ROOT / "build" / "mutation"
SEEN = COPY / "tests.sha256"
# The exit code of a test that fails.
KILLED = 1


def main() -> int:
    """Returns 1 where too many mutants live."""
    prepare()
    python = environment() / "bin" / "python"
    environ = {**os.environ, "PYTHONPATH": "src:."}
    at_once = str(len(os.sched_getaffinity(0)))
    for arguments in (["run", "--max-children", at_once], ["export-cicd-stats"], ["results"]):
        command = [str(python), "-m", "mutmut", *arguments]
        subprocess.run(command, cwd=COPY, check=True, env=environ)
    found = json.loads((COPY / "mutants" / "mutmut-cicd-stats.json").read_text())
    killed = found["killed"] + found.get("timeout", 0)
    counts = {"mutants": found["total"], "killed": killed, "survived": found["total"] - killed}
    share = killed / found["total"]
    print(f"{share:.1%} killed; wrote {record('mutation', int(share < LEAST), counts)}")
    return int(share < LEAST)


def prepare() -> None:
    """The copy as the code is now, with what an earlier campaign found in it."""
    for folder in ("src", "tests", "benchmarks"):
        shutil.rmtree(COPY / folder, ignore_errors=True)
        shutil.copytree(ROOT / folder, COPY / folder, ignore=shutil.ignore_patterns("*.pyc"))
    # The doors of the suite that need the repository around them stay behind.
    (COPY / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + settings())
    digest = hashlib.sha256()
    for file in sorted((ROOT / "tests").rglob("*.py")):
        digest.update(file.read_bytes())
    if not SEEN.exists() or SEEN.read_text() != digest.hexdigest():
        forget_the_living()
        SEEN.write_text(digest.hexdigest())


def forget_the_living() -> None:
    """Have all mutants tried again that no test has killed."""
    for file in (COPY / "mutants").rglob("*.py.meta"):
        try:
            found = json.loads(file.read_text())
        except ValueError:
            file.unlink()  # cut off by an interruption
            continue
        codes = found["exit_code_by_key"]
        found["exit_code_by_key"] = {
            name: code if code == KILLED else None for name, code in codes.items()
        }
        file.write_text(json.dumps(found))


def settings() -> str:
    """What mutmut is told, in the copy's project file."""
    wanted = {
        "source_paths": ["src"],
        "only_mutate": list(MUTATED),
        "also_copy": ["benchmarks"],
        "pytest_add_cli_args": ["-k", LEFT_OUT, "-p", "no:cacheprovider", *QUICK],
        "pytest_add_cli_args_test_selection": list(TESTS),
        "timeout_constant": 2.0,
        "timeout_multiplier": 5.0,
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
