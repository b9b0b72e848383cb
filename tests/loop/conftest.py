"""A loop over the tiny project for each module of tests that looks at what it left."""

from typing import NamedTuple

import pytest

from tests.tiny_project import write_project
from trimtab.flows.loop import Outcome, run
from trimtab.project import Project


class Record:
    """A watch that keeps what it heard."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.again: list[str] = []

    def started(self, step: str) -> None:
        pass

    def advanced(self, what: str, done: float, total: float | None, note: str = "") -> None:
        assert 0 <= done <= (done if total is None else total)

    def finished(self, step: str, line: str, seconds: float) -> None:
        self.done.append(step)

    def skipped(self, step: str, line: str) -> None:
        self.again.append(step)


class Looped(NamedTuple):
    project: Project
    outcome: Outcome
    watch: Record


@pytest.fixture(scope="module")
def looped(tmp_path_factory: pytest.TempPathFactory) -> Looped:
    project = Project.load(write_project(tmp_path_factory.mktemp("tiny"), 90))
    watch = Record()
    return Looped(project, run(project, watch=watch), watch)
