import asyncio

import pytest

from tests.evaluate.scripted import Scripted, refuses
from trimtab.errors import DataError
from trimtab.evaluate.items import Item
from trimtab.evaluate.performance import REQUESTS, run_performance
from trimtab.inference import Message
from trimtab.stats.binomial import at_least
from trimtab.text.chat import ChatFormat

ITEMS = [Item(f"{n:064x}", (Message("user", f"Ticket {n}"),), "Yes.") for n in (5, 3, 9, 1)]


def test_requests_go_one_by_one_after_an_untimed_one(chat_format: ChatFormat) -> None:
    engine = Scripted(chat_format.tokenizer, {"v": lambda prompt: "Yes, we will."})
    done: list[None] = []
    report = asyncio.run(
        run_performance(
            engine, "v", chat_format, ITEMS, 48, requests=3, on_item=lambda: done.append(None)
        )
    )
    assert [int(item.id, 16) for item in report.items] == [1, 3, 5]
    assert (engine.asked, engine.busiest, len(done)) == (4, 1, 3)
    assert 0 < report.summary["p50_ms"] <= report.summary["p95_ms"]
    assert report.summary["tokens_per_s"] > 0


def test_no_items_are_a_report_of_none(chat_format: ChatFormat) -> None:
    engine = Scripted(chat_format.tokenizer, {"v": lambda prompt: "Yes."})
    report = asyncio.run(run_performance(engine, "v", chat_format, [], 48))
    assert report.summary["items"] == 0
    assert "p50_ms" not in report.summary


def test_refused_items_are_counted_until_all_are(chat_format: ChatFormat) -> None:
    engine = Scripted(chat_format.tokenizer, {"v": refuses("Ticket 1"), "w": refuses("Ticket")})
    report = asyncio.run(run_performance(engine, "v", chat_format, ITEMS, 48))
    assert [int(item.id, 16) for item in report.items] == [3, 5, 9]
    assert (report.summary["items"], report.summary["refused"]) == (3, 1)
    with pytest.raises(DataError, match="performance: the engine refuses every item"):
        asyncio.run(run_performance(engine, "w", chat_format, ITEMS, 48))


def test_the_number_of_requests_is_enough_for_the_veto() -> None:
    """The figures that the module's docstring names."""
    assert at_least(3, REQUESTS, 0.05) < 0.05 / 3 < at_least(2, REQUESTS, 0.05)
    assert at_least(3, REQUESTS, 0.5) > 0.85
