import asyncio

from tests.evaluate.scripted import Scripted
from trimtab.evaluate.items import Item
from trimtab.evaluate.performance import run_performance
from trimtab.inference import Message
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
    assert report.summary == {"items": 0, "settings": {"max_tokens": 48}}
