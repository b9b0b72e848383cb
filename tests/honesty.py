"""Keeps the run honest: skips give reasons, and what the documentation calls done was seen passing.

* A skip without a reason fails the run, and so does the skip of something that is installed.
* On a run of all tests, every test that docs/TRACEABILITY.md names has to exist and pass, and
  what the long campaigns found is told with the last commit that passed them.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.campaigns import told

TRACEABILITY = Path(__file__).parent.parent / "docs" / "TRACEABILITY.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
NO_REASONS = ("", "unconditional skip", "Skipped")


class Honesty:
    def __init__(self) -> None:
        self.skips: list[str] = []
        self.passed: set[str] = set()
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.partition("[")[0]
        if report.skipped and not hasattr(report, "wasxfail"):
            self._note_skip(name, report.longrepr)
        elif report.failed:
            self.failed.add(name)
        elif report.when == "call":
            self.passed.add(name)

    def _note_skip(self, name: str, longrepr: object) -> None:
        reason = str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
        reason = reason.removeprefix("Skipped: ").strip()
        if reason in NO_REASONS or "could not import" in reason:
            self.skips.append(f"{name}: skipped ({reason or 'no reason'})")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        faults = [*self.skips]
        if _whole(session.config):
            faults += self._untrue()
        if faults:
            print("\n" + "\n".join(faults))
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _untrue(self) -> Iterator[str]:
        """Tests that the documentation names and that did not pass."""
        good = self.passed - self.failed
        files = {name.partition("::")[0] for name in good}
        for file, test in TEST.findall(TRACEABILITY.read_text()):
            seen = f"{file}::{test}" in good if test else file in files
            if not seen:
                yield f"docs/TRACEABILITY.md names {file} {test}: it is not there or did not pass"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _whole(terminalreporter.config):
        terminalreporter.section("campaigns")
        for line in told() or ["none was run yet: make test-crash"]:
            terminalreporter.line(line)


def _whole(config: pytest.Config) -> bool:
    """Whether all tests are run."""
    option, source = config.option, config.args_source
    whole = source is pytest.Config.ArgsSource.TESTPATHS
    return whole and not option.keyword and not option.collectonly


def pytest_configure(config: pytest.Config) -> None:
    # Of a run in several processes, the one that gathers their reports judges them.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Honesty(), "honesty")
