"""What work spends, on disk as it spends it, until the ledger has it.

A slip is a file of JSON lines: whose money it is, then the tokens of each question and the run of
each training. Who works holds its lock. One that nobody holds was left by a process that was
killed, or by a ledger that could not be written, and is booked by whoever comes next. Survives
`kill -9`; a loss of power may take the last lines. Knows no prices but those it is told.
"""

import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from trimtab.canonical import canonical_json
from trimtab.flows.metered import Meter
from trimtab.inference import Usage
from trimtab.ledger.money import Price
from trimtab.store.disk import keep_whole, storing, temporary_name
from trimtab.store.home import Home
from trimtab.store.ids import new_id

SUFFIX = ".jsonl"


@dataclass(frozen=True, slots=True)
class Payer:
    """A project, the kind of its work, what the work is called in the ledger, and what a token of a
    version costs that has no price of its own."""

    project: str
    kind: str
    name: str
    others: Price


class Slip:
    """One attempt at some work. A line that the disk does not take is not told: who works has all
    of it in memory yet."""

    def __init__(self, path: Path, payer: Payer, file: IO[bytes]) -> None:
        self.path = path
        self.payer = payer
        self._file = file

    @property
    def name(self) -> str:
        """No other attempt has it, so that one that is booked twice is paid once."""
        return f"{self.payer.name}/{self.path.stem}"

    def asked(self, version: str, usage: Usage) -> None:
        """A question was answered."""
        self._say({"version": version, "used": [usage.prompt, usage.completion, usage.cached]})

    def trains(self, run: str, usd_hour: float) -> None:
        """A run begins or goes on; its own folder has how long it takes."""
        self._say({"run": run, "usd_hour": usd_hour})

    def drop(self) -> None:
        """The ledger has it."""
        self.path.unlink(missing_ok=True)

    def _say(self, line: Mapping[str, Any]) -> None:
        with suppress(OSError):
            # The newline comes first: a line that a full disk cut off spoils itself alone.
            self._file.write(b"\n" + canonical_json(line))


@dataclass(frozen=True, slots=True)
class Left:
    """What a slip has that nobody works on any more: tokens by version, and for each run what an
    hour of it costs in dollars."""

    slip: Slip
    used: Mapping[str, Usage]
    runs: Mapping[str, float]


@contextmanager
def begun(home: Home, payer: Payer) -> Iterator[Slip]:
    """A new slip, this process's own until the end; it stands after it unless it was dropped.

    Raises StorageFull: what cannot be noted is not begun.
    """
    path = home.unpaid / f"{new_id()}{SUFFIX}"
    draft = temporary_name(path)
    with ExitStack() as stack:
        with storing(path):
            stack.callback(draft.unlink, missing_ok=True)
            file = stack.enter_context(draft.open("wb", buffering=0))
            # Before anybody can find it.
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(_head(payer))
            keep_whole(draft, path)
        yield Slip(path, payer, file)


def left(home: Home) -> Iterator[Left]:
    """Every slip that nobody works on, one after another, each locked while it is looked at."""
    for path in sorted(home.unpaid.glob(f"*{SUFFIX}")):
        # Another may have booked it meanwhile.
        with suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if os.fstat(file.fileno()).st_nlink and (payer := _payer(file.readline())) is not None:
                yield _read(path, payer, file)


def _payer(head: bytes) -> Payer | None:
    """None where the first line is damaged: what names nobody is booked to nobody, and stops no
    other slip."""
    try:
        found = json.loads(head)
        return Payer(found["project"], found["kind"], found["name"], Price(*found["others"]))
    except (ValueError, KeyError, TypeError):
        return None


def _read(path: Path, payer: Payer, file: IO[bytes]) -> Left:
    meter, runs = Meter(), {}
    for line in file:
        # One may be cut off or damaged.
        with suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
            said = json.loads(line)
            if "run" not in said:
                meter.add(said["version"], *said["used"])
            elif math.isfinite(hour := float(said["usd_hour"])):
                runs[said["run"]] = hour
    return Left(Slip(path, payer, file), meter.used, runs)


def _head(payer: Payer) -> bytes:
    others = payer.others
    price = [others.prompt_nano, others.completion_nano, others.cached_nano]
    names = {"project": payer.project, "kind": payer.kind, "name": payer.name}
    return canonical_json({**names, "others": price})
