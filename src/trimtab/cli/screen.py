"""Draws a loop in the terminal: a bar for long work, one line a step otherwise."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Without a terminal there is no bar; a line now and then says that work goes on.
LINE_EVERY_S = 15.0


class Screen:
    """A `Watch` for people. Where the output is no terminal it prints lines alone."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            # Of a download whose size nobody told there is no share.
            TaskProgressColumn("{task.percentage:>3.0f} %", text_format_no_percentage="     "),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._bars: dict[str, TaskID] = {}
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._clear()
        self._progress.stop()

    def started(self, step: str) -> None:
        self._clear()
        self._bars[step] = self._progress.add_task(f"{step:<9}", total=None, note="")

    def advanced(self, what: str, done: float, total: float | None, note: str = "") -> None:
        if what not in self._bars:
            self._bars[what] = self._progress.add_task(f"  {escape(what)}", total=total, note="")
        self._progress.update(self._bars[what], completed=done, total=total, note=escape(note))
        if not self._console.is_terminal and time.monotonic() - self._said >= LINE_EVERY_S:
            share = f" {done / total:.0%}" if total else ""
            self._say(f"  {escape(what)}{share} {escape(note)}".rstrip())

    def finished(self, step: str, line: str, seconds: float) -> None:
        self._clear()
        self._say(f"[green]✓[/] {step:<9} {escape(line)} [dim]{seconds:.1f} s[/]")

    def skipped(self, step: str, line: str) -> None:
        self._clear()
        self._say(f"[dim]= {step:<9} {escape(line)} (done before)[/]")

    def _say(self, line: str) -> None:
        # A line that is cut by a log's width cannot be searched for.
        self._console.print(line, soft_wrap=not self._console.is_terminal)
        self._said = time.monotonic()

    def _clear(self) -> None:
        for bar in self._bars.values():
            self._progress.remove_task(bar)
        self._bars.clear()
