"""What answers of several ranks are worth: each rank asks for its own, and is told by the process
that asked for the run.

A reward may be a function of the project, a model, or a judge with an engine of its own: there is
one of each, as in one process, and not one in each rank. A question is a file NAME.ask in a folder
of the desk, its answer NAME.told. Knows no torch.
"""

import json
import time
import uuid
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from trimtab.errors import TrimtabError
from trimtab.train.launchers.job import Desk, Job, first_line
from trimtab.train.online.rewards import Scorer
from trimtab.train.run import write_json

POLL_S = 0.005


def asking(job: Job, desk: Desk) -> list[Scorer]:
    """A rank's side: the rewards of a job, asked for."""
    return [
        Scorer(name, identity, partial(_ask, desk.scores, place))
        for place, (name, identity) in enumerate(job.rewards)
    ]


def _ask(folder: Path, reward: int, records: Sequence[int], answers: Sequence[str]) -> list[float]:
    """Raises TrimtabError where the reward failed."""
    # Named anew each time: a group of workers that was lost may have left questions.
    name = uuid.uuid4().hex
    asked = {"reward": reward, "records": [*records], "answers": [*answers]}
    write_json(folder / f"{name}.ask", asked)
    answer = folder / f"{name}.told"
    while not answer.is_file():
        time.sleep(POLL_S)
    told = json.loads(answer.read_bytes())
    answer.unlink()
    if told["failed"]:
        raise TrimtabError(told["failed"])
    found: list[float] = told["scores"]
    return found


class Telling:
    """The side of whoever asked for the run. `failed` is what a reward raised, the first one."""

    def __init__(self, desk: Desk, scorers: Sequence[Scorer]) -> None:
        self._folder = desk.scores
        self._scorers = scorers
        self.failed: Exception | None = None

    def tell(self) -> None:
        """Answer all that is asked by now."""
        for question in self._folder.glob("*.ask"):
            asked = json.loads(question.read_bytes())
            told: dict[str, object] = {"failed": "", "scores": []}
            try:
                scorer = self._scorers[asked["reward"]]
                told["scores"] = scorer.score(asked["records"], asked["answers"])
            except Exception as error:
                # Here it ends the run only when the ranks, who wait for an answer, have ended.
                self.failed = self.failed or error
                told["failed"] = first_line(error)
            question.unlink()
            write_json(question.with_suffix(".told"), told)
