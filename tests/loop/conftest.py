"""A loop over the tiny project for each module of tests that looks at what it left, and a home that
the projects of a module's other loops share.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.crash.killing import SharedEngine
from tests.tiny import build_base
from tests.tiny_project import write_project
from trimtab.flows.loop import Outcome, run
from trimtab.project import Project
from trimtab.store.home import Home


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home and one base for several projects. Their engine serves: every run uses it."""
    folder = tmp_path_factory.mktemp("shared")
    build_base(folder / "base")
    with SharedEngine(folder):
        yield folder


@pytest.fixture
def home(folder: Path) -> Home:
    return Home(folder / ".trimtab")


@pytest.fixture
def base(folder: Path) -> str:
    return str(folder / "base")
