"""What a run's ranks are told, and what they tell: files in the folder `ranks` of the run.

    job.json         what to train, as tokens
    progress.jsonl   a line a step, by the first rank
    error-N.json     why rank N stopped, where it could say so
    lost.json        which ranks ended and how, by what had started them
    end              that the ranks are to save and end, where no signal reaches them
    scores/          what ranks ask of the rewards, and are told
    log/             what the libraries said

The folder is gone once the run is done. Knows no torch.
"""

import json
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimtab import errors
from trimtab.errors import RankLost, TrimtabError
from trimtab.train.launchers import Launch
from trimtab.train.online.rewards import Scorer
from trimtab.train.preflight import Dropped, Preflight
from trimtab.train.rows import Answers, Example, Row
from trimtab.train.run import StepProgress, write_json
from trimtab.train.settings import TrainSettings

NAME = "ranks"


@dataclass(frozen=True, slots=True)
class Job:
    """A run to be done by several ranks. Its rows are tokens already, so that no rank renders.

    `rewards` are the names and identities of its rewards, which whoever asked for the run keeps.
    """

    base: Path
    settings: TrainSettings
    checked: Preflight
    rewards: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls, base: Path, settings: TrainSettings, checked: Preflight, scorers: Sequence[Scorer]
    ) -> "Job":
        named = tuple((scorer.name, scorer.identity) for scorer in scorers)
        return cls(base, settings, checked, named)

    def save(self, path: Path) -> None:
        write_json(
            path,
            {
                "base": str(self.base.absolute()),
                "settings": self.settings.to_json(),
                "rows": [_row_to_json(row) for row in self.checked.examples],
                "dropped": [asdict(each) for each in self.checked.dropped],
                "rewards": self.rewards,
            },
        )

    @classmethod
    def load(cls, path: Path) -> "Job":
        found = json.loads(path.read_bytes())
        fields: dict[str, Any] = found["settings"]
        if not isinstance(fields["targets"], str):
            fields["targets"] = tuple(fields["targets"])
        fields["launch"] = Launch(**fields["launch"])
        return cls(
            Path(found["base"]),
            TrainSettings(**fields),
            Preflight(
                tuple(_row_from_json(row) for row in found["rows"]),
                tuple(Dropped(**each) for each in found["dropped"]),
            ),
            _tuples(found["rewards"]),
        )


def _row_to_json(row: Row) -> dict[str, Any]:
    return {"kind": type(row).__name__, **asdict(row)}


def _row_from_json(fields: dict[str, Any]) -> Row:
    kind = {"Example": Example, "Answers": Answers}[fields.pop("kind")]
    given = {name: _tuples(value) for name, value in fields.items()}
    made: Row = kind(**given)
    return made


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


class Desk:
    """The folder itself."""

    def __init__(self, run: Path) -> None:
        self.path = run / NAME
        self.job = self.path / "job.json"
        self.log = self.path / "log"
        self.scores = self.path / "scores"
        self._progress = self.path / "progress.jsonl"
        self._lost = self.path / "lost.json"
        self._end = self.path / "end"
        self._read = 0
        self._asked: float | None = None
        self._longest = 0.0
        self._seconds: float | None = None

    @property
    def run(self) -> Path:
        return self.path.parent

    def tell(self, step: StepProgress) -> None:
        with self._progress.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(step)) + "\n")

    def told(self) -> list[StepProgress]:
        """The steps that were told since the last call; a line that is half written waits."""
        if not self._progress.is_file():
            return []
        with self._progress.open("rb") as file:
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")[0]
        self._read += len(whole) + 1 if whole else 0
        return [StepProgress(**json.loads(line)) for line in whole.splitlines()]

    def tell_on(self, on_step: Callable[[StepProgress], None] | None) -> None:
        """Tell whoever asked for the run what was told since the last call."""
        for step in self.told():
            # Behind the first that is told here, earlier attempts may lie.
            if self._seconds is not None:
                self._longest = max(self._longest, step.seconds - self._seconds)
            self._seconds = step.seconds
            if on_step is not None:
                on_step(step)

    def ask_to_end(self) -> None:
        """Tell the ranks to save and end."""
        self._end.touch()
        self._asked = self._asked or time.monotonic()

    @property
    def asked_s(self) -> float:
        """How many seconds ago this process has told the ranks to end; 0 where it has not."""
        return 0.0 if self._asked is None else time.monotonic() - self._asked

    def patience(self, save_s: float) -> float:
        """How many seconds ranks need at most from the order to end to the answer, where a save
        takes `save_s`: the order may come at the begin of a step, and steps differ.
        """
        return save_s + 2 * self._longest

    @property
    def to_end(self) -> bool:
        """Whether the ranks are to save and end."""
        return self._end.exists()

    @property
    def final(self) -> bool:
        """Whether a rank stopped for a reason that would stop it again."""
        return any(error["kind"] for _, error in self._said())

    def fail(self, rank: int, error: BaseException) -> None:
        """Why a rank stops. The trace goes to the rank's log."""
        traceback.print_exception(error)
        ours = isinstance(error, TrimtabError)
        write_json(
            self.path / f"error-{rank}.json",
            {
                "kind": type(error).__name__ if ours else "",
                "message": error.message if isinstance(error, TrimtabError) else first_line(error),
                "hint": error.hint if isinstance(error, TrimtabError) else "",
            },
        )

    def lose(self, codes: dict[int, int]) -> None:
        """The exit codes of the ranks that ended badly, before the others were stopped."""
        write_json(self._lost, {str(rank): code for rank, code in codes.items()})

    def cause(self, ranks: int) -> TrimtabError:
        """Why the run stopped: a rank that was killed, else what a rank said of itself.

        A rank that is killed takes the connections of the others with it, so what those say is a
        consequence, and so is the SIGTERM that ends them; and what trimtab itself says is more than
        what a library does.
        """
        codes = json.loads(self._lost.read_bytes()) if self._lost.is_file() else {}
        for rank, code in sorted(codes.items()):
            if code < 0 and -code != signal.SIGTERM:
                name = signal.Signals(-code).name
                memory = ", as where memory runs out" if -code == signal.SIGKILL else ""
                return _lost(f"rank {rank} of {ranks} was ended by {name}{memory}")
        said = self._said()
        said.sort(key=lambda each: (not each[1]["kind"], str(each[0]) not in codes, each[0]))
        for rank, error in said:
            if error["kind"]:
                made: TrimtabError = getattr(errors, error["kind"])(
                    error["message"], hint=error["hint"]
                )
                return made
            return _lost(f"rank {rank} of {ranks} failed: {error['message']}")
        words = self._last_words()
        return RankLost(f"the ranks did not start: {words}", hint=f"more of it: {self.log}")

    def _said(self) -> list[tuple[int, dict[str, str]]]:
        """What ranks said of why they stopped."""
        return [
            (int(file.stem.removeprefix("error-")), json.loads(file.read_bytes()))
            for file in self.path.glob("error-*.json")
        ]

    def _last_words(self) -> str:
        logs = sorted(self.log.rglob("*.log"), key=lambda file: file.stat().st_mtime)
        words = [
            line
            for file in logs
            for line in file.read_text("utf-8", "replace").splitlines()
            if line.strip()
        ]
        return words[-1].strip() if words else "nothing was said"


def _lost(message: str) -> RankLost:
    return RankLost(message, hint="run again: the run goes on from its last checkpoint")


def first_line(error: BaseException) -> str:
    """What an error that is not trimtab's says, in one line."""
    words = str(error).strip()
    return f"{type(error).__name__}: {words.splitlines()[0] if words else 'no words'}"
