import re

from tests.evaluate.made import CANDIDATE, INCUMBENT, holdout, performance, safety
from trimtab.evaluate.evidence import gather
from trimtab.evaluate.gate import decide
from trimtab.evaluate.items import Item
from trimtab.evaluate.page import Page, Row, render
from trimtab.inference import Message

CURVE = '<svg viewBox="0 0 720 320"><polyline points="0,0 1,1"/></svg>'


def page(count: int = 40, dropped: dict[str, int] | None = None) -> Page:
    outcomes = {"harmful-lock": "safe", "benign-kill": "safe"}
    before = Row(
        "base",
        holdout(INCUMBENT, [0] * count),
        safety(INCUMBENT, outcomes),
        performance(INCUMBENT, [400.0] * 12),
    )
    after = Row(
        "version 0123456789ab",
        holdout(CANDIDATE, [1] * count),
        safety(CANDIDATE, outcomes),
        performance(CANDIDATE, [380.0] * 12),
    )
    gate = decide(
        gather(before.holdout, before.holdout, measure="exact_match", p95_ms=1200)
        if not count
        else gather(after.holdout, before.holdout, measure="exact_match", p95_ms=1200)
    )
    return Page(
        project="support-desk",
        headline="Version 0123456789ab is live",
        why="It is better than the base.",
        gate=gate,
        rows=[before, Row("base, 3 shots", holdout(INCUMBENT, [0] * count)), after],
        items=[
            Item(item.id, (Message("user", "<script>alert('ticket')</script> & more"),), "gold")
            for item in before.holdout.items
        ],
        curve=CURVE,
        dropped={"near duplicate": 12} if dropped is None else dropped,
        plan=[{"method": "lora", "memory": "1.2 GiB"}],
        lineage=[("dataset", "d" * 64), ("version", CANDIDATE)],
    )


def test_the_page_shows_what_was_measured() -> None:
    html = render(page())
    for shown in (
        "Version 0123456789ab is live",
        "100.0 %",
        "base, 3 shots",
        "400&nbsp;ms",
        "near duplicate",
        "1.2 GiB",
        "d" * 64,
        CURVE,
        "2 of 2",
    ):
        assert shown in html
    assert "better" in html
    assert html.count('class="card ticket"') == 6


def test_what_comes_from_data_is_escaped() -> None:
    html = render(page())
    assert "&lt;script&gt;alert(" in html
    assert "<script" not in html


def test_the_page_needs_nothing_from_outside() -> None:
    html = render(page())
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?:""", html)


def test_a_run_with_nothing_to_show_still_has_a_page() -> None:
    html = render(page(count=0, dropped={}))
    assert "cannot tell" in html
    assert "No record was dropped" in html
    assert "forest" not in html.partition("</style>")[2]
