import threading
import time
from pathlib import Path

import pytest

from trimtab.train.watch import stall
from trimtab.train.watch.stall import Stalled, StallGuard


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall, "LEAST_S", 0.05)
    monkeypatch.setattr(stall, "TIMES", 2.0)


def guard(tmp_path: Path, steps: int = 3) -> StallGuard:
    made = StallGuard(lambda: "step 4 on training records [1]", tmp_path / "stalled.txt")
    for _ in range(steps):
        made.stepped()
    return made


def idle(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.002)


def test_a_step_without_an_end_is_ended_in_any_thread(tmp_path: Path) -> None:
    watched = guard(tmp_path)
    seen: list[str] = []

    def train() -> None:
        try:
            with watched.watching():
                idle(20)
        except Stalled:
            seen.append(watched.message)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join(10)
    assert "step 4 on training records [1]: no end for 0." in seen[0]
    assert "in idle" in (tmp_path / "stalled.txt").read_text()


def test_what_lies_between_steps_and_before_a_median_has_no_limit(tmp_path: Path) -> None:
    watched = guard(tmp_path)
    with watched.watching():
        with watched.held():
            idle(0.2)
        watched.stepped()
    with guard(tmp_path, steps=2).watching():
        idle(0.2)
    assert not (tmp_path / "stalled.txt").exists()
