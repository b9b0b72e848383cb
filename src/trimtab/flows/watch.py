"""Who watches a loop: the interface between the steps and whatever draws them."""

from typing import Protocol


class Watch(Protocol):
    """Hears what the loop does. `started` and `finished` frame each step of the journal."""

    def started(self, step: str) -> None: ...

    def advanced(self, what: str, done: float, total: float | None, note: str = "") -> None:
        """Long work inside a step: `done` units of `what`, of `total` where that is known."""

    def finished(self, step: str, line: str, seconds: float) -> None: ...

    def skipped(self, step: str, line: str) -> None:
        """The journal already holds this step's result."""


class Silent:
    """Watches without a word: the Python API's default."""

    def started(self, step: str) -> None:
        pass

    def advanced(self, what: str, done: float, total: float | None, note: str = "") -> None:
        pass

    def finished(self, step: str, line: str, seconds: float) -> None:
        pass

    def skipped(self, step: str, line: str) -> None:
        pass
