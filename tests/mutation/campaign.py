"""Mutation testing of what guards money: ledger, limits and breaker, with mutmut.

    make test-mutation
    python -m tests.mutation.campaign --minutes 50     # as far as it comes

Every mutant is one small fault planted in a copy of the code; it is killed if a test fails. The
tests are the fast ones of those rooms, on SQLite: whoever needs a server, another process or half a
minute kills no mutant that these should have killed. Writes docs/campaigns/mutation.json; below
85 % is a violation.

It may run beside other work: what a test may take is counted in its own seconds of computing, and
by the clock only with much to spare. A mutant that took too long is tried again, alone; only if it
does so again does it hang, which counts as killed.

The copy stays under build/, so that a campaign that was interrupted goes on where it was. A mutant
that was killed stays killed until its function changes; those that lived are tried again whenever
a test changed. As many at once as there are processors to run on (`taskset -c 0` for one).

mutmut is in an environment of its own: TRIMTAB_MUTMUT names one, else it is made under build/.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.machine import ROOT

from tests.campaigns import record
from tests.mutation.verdicts import Verdicts

LEAST = 0.85
MUTATED = (
    *(f"src/trimtab/ledger/{name}.py" for name in ("accounts", "money", "own", "prices")),
    *(f"src/trimtab/ledger/{name}.py" for name in ("recovery", "reservation", "till")),
    *(f"src/trimtab/gateway/billing/{name}.py" for name in ("gcra", "limits")),
    *(f"src/trimtab/gateway/tiers/{name}.py" for name in ("breaker", "retry")),
)
TESTS = (
    *(f"tests/ledger/test_{name}.py" for name in ("holds", "money", "own")),
    *(f"tests/ledger/test_{name}.py" for name in ("prices", "recovery", "till")),
    *(f"tests/gateway/test_{name}.py" for name in ("breaker", "gcra", "meters", "retry")),
)
LEFT_OUT = "not postgresql and not processes and not TestSpending"
# The first failure is enough: nobody reads the smallest example of a mutant's fault. The clock
# fails no test, since the machine may be busy.
QUICK = ("--hypothesis-profile=mutation", "--assert=plain", "--timeout=0")
LIMITED = ("-p", "tests.mutation.computing")
NEEDED = (
    "alembic click fastapi filelock httptools httpx hypothesis jinja2 platformdirs psutil pydantic "
    "pytest pytest-timeout python-multipart pyyaml rensa rich sqlalchemy tokenizers uvicorn uvloop "
    "websockets"
)
MUTMUT = "mutmut==3.8.1"
COPY = ROOT / "build" / "mutation"
SEEN = COPY / "tests.sha256"


def main() -> int:
    """Returns 1 where too many mutants live."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, help="end then, with what was found so far")
    minutes = parser.parse_args().minutes
    until = None if minutes is None else time.monotonic() + 60 * minutes
    verdicts = Verdicts(COPY / "mutants")
    prepare(verdicts)
    hanging: list[str] = []
    if mutmut(until, len(os.sched_getaffinity(0))) and (suspects := verdicts.timed_out()):
        print(f"{len(suspects)} took too long; each is tried again, alone")
        if mutmut(until, 1, *suspects):
            hanging = verdicts.timed_out()
    counts = verdicts.counts(hanging)
    tried = counts["mutants"] - counts["not tried"]
    share = (counts["killed"] + counts["hanging"]) / tried
    figures = {"killed_share": round(share, 4), "by_file": verdicts.by_file(hanging)}
    whole = tried == counts["mutants"]
    file = record("mutation", int(share < LEAST), counts, figures=figures, whole=whole)
    print(f"{share:.1%} of {tried} killed; wrote {file}")
    return int(share < LEAST)


def mutmut(until: float | None, at_once: int, *names: str) -> bool:
    """Try the mutants of these names, or all that have no verdict; False where time ran out."""
    command = [str(environment() / "bin" / "python"), "-m", "mutmut"]
    command += ["run", "--max-children", str(at_once), *names]
    with subprocess.Popen(command, cwd=COPY, env={**os.environ, "PYTHONPATH": "src:."}) as running:
        try:
            code = running.wait(None if until is None else max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            # Every verdict so far is written down; a mutant under test ends by itself.
            running.terminate()
            return False
    if code:
        raise subprocess.CalledProcessError(code, command)
    return True


def prepare(verdicts: Verdicts) -> None:
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
        verdicts.forget_the_living()
        # Which functions a test reaches changes with it.
        (COPY / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
        SEEN.write_text(digest.hexdigest())


def settings() -> str:
    """What mutmut is told, in the copy's project file."""
    wanted = {
        "source_paths": ["src"],
        "only_mutate": list(MUTATED),
        "also_copy": ["benchmarks"],
        "pytest_add_cli_args": ["-k", LEFT_OUT, "-p", "no:cacheprovider", *QUICK, *LIMITED],
        "pytest_add_cli_args_test_selection": list(TESTS),
        # By the clock, of what the tests took at first: for those that wait and do not compute.
        "timeout_constant": 5.0,
        "timeout_multiplier": 15.0,
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
