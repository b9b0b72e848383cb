import asyncio
import json
import math
import re

import pytest

from tests.evaluate.scripted import Scripted, refuses
from trimtab.canonical import canonical_json
from trimtab.errors import DataError, VersionNotLoaded
from trimtab.evaluate.holdout import HoldoutItem, holdout_settings, run_holdout
from trimtab.evaluate.items import Item, choose_shots
from trimtab.evaluate.report import Report, read_items
from trimtab.inference import Message
from trimtab.text.chat import ChatFormat

MATCH = ["intent"]


def items(count: int) -> list[Item]:
    return [
        Item(
            id=f"{number:064x}",
            messages=(Message("user", f"Ticket {number}: the bill is wrong."),),
            answer=json.dumps({"intent": f"kind{number}", "reply": "We will look."}),
        )
        for number in range(count)
    ]


def knows(prompt: str) -> str:
    """Right on even tickets; valid JSON on all but every fifth."""
    number = int(re.findall(r"Ticket (\d+)", prompt)[-1])
    if number % 5 == 4:
        return "I do not know."
    return json.dumps({"intent": f"kind{number - number % 2}", "reply": "Other words."})


def run(
    engine: Scripted, chat_format: ChatFormat, asked: list[Item], **options: object
) -> Report[HoldoutItem]:
    return asyncio.run(
        run_holdout(engine, "v", chat_format, asked, MATCH, 48, **options)  # type: ignore[arg-type]
    )


def test_every_item_is_judged_and_summed_up(chat_format: ChatFormat) -> None:
    engine = Scripted(chat_format.tokenizer, {"v": knows}, {"v": -0.25})
    report = run(engine, chat_format, items(10))
    assert [item.exact for item in report.items] == [n % 2 == 0 and n % 5 != 4 for n in range(10)]
    assert [item.valid_json for item in report.items] == [n % 5 != 4 for n in range(10)]
    assert report.suite == "holdout"
    assert report.runtime == "scripted-1/cpu/float32/none"
    assert report.summary["exact_match"] == 0.4
    assert report.summary["valid_json"] == 0.8
    assert math.isclose(report.summary["log_likelihood_per_token"], -0.25)


def test_the_gold_answer_is_scored_with_its_end_of_turn(chat_format: ChatFormat) -> None:
    engine = Scripted(chat_format.tokenizer, {"v": knows})
    [asked] = items(1)
    [item] = run(engine, chat_format, [asked]).items
    assert item.gold_tokens == len(chat_format.tokenizer.encode(asked.answer)) + 1
    assert item.log_likelihood == -item.gold_tokens


def test_two_batches_are_in_flight_and_no_more(chat_format: ChatFormat) -> None:
    engine = Scripted(chat_format.tokenizer, {"v": knows}, max_batch=3)
    done: list[None] = []
    report = run(engine, chat_format, items(20), on_item=lambda: done.append(None))
    assert engine.busiest == 6
    assert len(done) == 20
    assert [item.id for item in report.items] == [item.id for item in items(20)]


def test_shots_stand_in_the_prompt_and_in_the_name(chat_format: ChatFormat) -> None:
    prompts: list[str] = []

    def listens(prompt: str) -> str:
        prompts.append(prompt)
        return "{}"

    engine = Scripted(chat_format.tokenizer, {"v": listens})
    shots = choose_shots(items(9)[5:], 3, MATCH)
    report = run(engine, chat_format, items(2), shots=shots)
    assert report.suite == "holdout-3-shots"
    assert report.summary["settings"]["shots"] == 3
    assert all(
        prompt.count("kind") == 3 and prompt.count("<|im_start|>system") == 1 for prompt in prompts
    )


def test_a_gold_answer_that_cannot_match_stops_before_anything_is_asked(
    chat_format: ChatFormat,
) -> None:
    engine = Scripted(chat_format.tokenizer, {"v": knows})
    broken = Item("f" * 64, (Message("user", "Ticket 3"),), "no JSON")
    with pytest.raises(DataError, match="item ffffffffffff"):
        run(engine, chat_format, [*items(3), broken])
    assert engine.asked == 0


def test_the_engines_error_is_raised_as_it_is(chat_format: ChatFormat) -> None:
    with pytest.raises(VersionNotLoaded):
        run(Scripted(chat_format.tokenizer, {}), chat_format, items(9))


def test_a_refused_item_is_its_own_failure(chat_format: ChatFormat) -> None:
    engine = Scripted(chat_format.tokenizer, {"v": refuses("Ticket 3:", "Ticket 7:")})
    report = run(engine, chat_format, items(10))
    failed = [item for item in report.items if item.error]
    assert [int(item.id, 16) for item in failed] == [3, 7]
    assert [(i.exact, i.valid_json, i.log_likelihood) for i in failed] == [(False, False, None)] * 2
    assert (report.summary["items"], report.summary["refused"]) == (10, 2)
    assert report.summary["exact_match"] == 0.1
    assert math.isclose(report.summary["log_likelihood_per_token"], -1.0)
    assert read_items(report.items_json(), HoldoutItem) == report.items


def test_where_every_item_is_refused_the_suite_ends(chat_format: ChatFormat) -> None:
    engine = Scripted(chat_format.tokenizer, {"v": refuses("Ticket")})
    with pytest.raises(DataError, match="holdout: the engine refuses every item: prompt and"):
        run(engine, chat_format, items(3))


def test_no_items_are_a_report_of_none(chat_format: ChatFormat) -> None:
    report = run(Scripted(chat_format.tokenizer, {"v": knows}), chat_format, [])
    assert report.items == ()
    assert report.summary["items"] == 0
    assert "exact_match" not in report.summary


def test_without_fields_texts_are_compared_and_json_is_not_asked_for(
    chat_format: ChatFormat,
) -> None:
    engine = Scripted(chat_format.tokenizer, {"v": lambda prompt: " Yes. "})
    asked = [Item("a" * 64, (Message("user", "Really?"),), "Yes.")]
    report = asyncio.run(run_holdout(engine, "v", chat_format, asked, [], 8))
    assert report.items[0].exact
    assert report.items[0].valid_json is None
    assert report.summary["valid_json"] is None


def test_the_settings_tell_reports_apart_that_cannot_stand_for_each_other() -> None:
    asked, turns = items(4), choose_shots(items(9)[5:], 2, MATCH)
    base = holdout_settings(asked, MATCH, 48)
    assert base == holdout_settings(asked[::-1], MATCH, 48)
    others = [
        holdout_settings(asked[:3], MATCH, 48),
        holdout_settings(asked, [], 48),
        holdout_settings(asked, MATCH, 24),
        holdout_settings(asked, MATCH, 48, turns),
        holdout_settings(asked, MATCH, 48, turns[2:] + turns[:2]),
    ]
    assert len({canonical_json(settings) for settings in [base, *others]}) == 6
