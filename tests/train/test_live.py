"""The page of a run: it says how far it is, asks to be read again, and costs nobody anything."""

from pathlib import Path
from typing import Any

import pytest

from trimtab.train.display.live import LivePage, clock
from trimtab.train.display.samples import Asked
from trimtab.train.run import StepProgress

LOG: list[dict[str, Any]] = [
    {"step": step, "loss": 2.5 / step, "grad_norm": 1.0, "learning_rate": 1e-3, "tokens_s": 300.0}
    for step in range(1, 6)
] + [{"step": 4, "held_out_loss": 0.8}]
PROGRESS = StepProgress(5, 20, 0.5, 300.0, 90.0, 1.0, 2 * 10**9, 0.25, 4.75, 0.41)
ASKED = [Asked("<b>Is it</b> down?", "It is up.", tuple((n, f"answer {n}") for n in range(1, 30)))]


def page(file: Path) -> LivePage:
    return LivePage(file, "tiny, sft by lora", [("seed", "17")], "Held out.", ["margin"])


def test_it_says_how_far_the_run_is(tmp_path: Path) -> None:
    page(tmp_path / "live.html").show(LOG, PROGRESS, ASKED)
    drawn = (tmp_path / "live.html").read_text()
    for told in (
        "step 5 of 20",
        "about 4 min 30 s left",
        "$0.25",
        "4.75 left",
        "41%",
        "best 0.800",
    ):
        assert told in drawn
    assert '<meta http-equiv="refresh" content="5">' in drawn
    assert "&lt;b&gt;Is it&lt;/b&gt; down?" in drawn
    assert [n for n in range(1, 30) if f"answer {n}<" in drawn] == [1, 7, 12, 18, 23, 29]
    assert 'class="held"' in drawn
    # Nothing comes from elsewhere.
    assert "src=" not in drawn
    assert "href=" not in drawn


def test_it_is_written_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    live = page(tmp_path / "live.html")
    live.show(LOG[:1], PROGRESS, [])
    live.show(LOG, PROGRESS, ASKED)
    assert "answer 1" not in (tmp_path / "live.html").read_text()
    live.show(LOG, PROGRESS, ASKED, "failed", "step 5: <nan>")
    drawn = (tmp_path / "live.html").read_text()
    assert "step 5: &lt;nan&gt;" in drawn
    assert 'http-equiv="refresh"' not in drawn
    assert sorted(path.name for path in tmp_path.iterdir()) == ["live.html"]


def test_where_it_cannot_be_written_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "live.html").mkdir()
    page(tmp_path / "live.html").show(LOG, PROGRESS, [])


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3.2, "3 s"), (61, "1 min 01 s"), (3600, "1 h 00 min"), (7384, "2 h 03 min")],
)
def test_times_are_as_people_say_them(seconds: float, said: str) -> None:
    assert clock(seconds) == said
