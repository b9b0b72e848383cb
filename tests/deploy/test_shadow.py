import asyncio
import json
from collections.abc import Sequence

import pytest

from tests.deploy.world import SYSTEM, World
from tests.evaluate.scripted import Rule, Scripted
from trimtab.deploy.shadow import (
    PROMPTS_AT_ONCE,
    Answer,
    ShadowItem,
    ShadowResult,
    Side,
    judge_shadow,
    shadow,
)
from trimtab.errors import DataError, EngineUnavailable
from trimtab.evaluate.items import Item
from trimtab.inference import Message

GOLD = json.dumps({"intent": "bug", "reply": "We will look."})
PROMPTS = [Item(f"{n:064x}", (Message("user", f"Ticket {n}"),), GOLD) for n in range(12)]


def right(prompt: str) -> str:
    return json.dumps({"intent": "bug", "reply": "Other words."})


def chatty(prompt: str) -> str:
    return f"Sure! {right(prompt)}"


def dies(prompt: str) -> str:
    if "Ticket 7" in prompt:
        raise EngineUnavailable("the engine is gone")
    return right(prompt)


def run(
    world: World, live: Rule, candidate: Rule, prompts: Sequence[Item] = PROMPTS, **options: object
) -> ShadowResult:
    engine = Scripted(world.chat_format.tokenizer, {"live": live, "new": candidate})
    sides = [Side(engine, name, world.chat_format) for name in ("live", "new")]
    settings = {"match": ["intent"], "max_tokens": 48, "p95_ms": 60_000.0, **options}
    return asyncio.run(shadow(*sides, prompts, **settings))  # type: ignore[arg-type]


def timed(*latencies_ms: float, valid: bool = True, live_ms: float = 100.0) -> list[ShadowItem]:
    return [
        ShadowItem("0" * 64, Answer("a", True, live_ms), Answer("a", valid, latency), True)
        for latency in latencies_ms
    ]


def test_a_candidate_that_answers_like_the_live_version_passes(world: World) -> None:
    done: list[None] = []
    found = run(world, right, right, on_item=lambda: done.append(None))
    assert found.passed
    assert found.reason == "12 prompts answered beside the live version"
    assert (found.prompts, found.agreed, found.candidate_valid) == (12, 12, 12)
    assert len(done) == 12
    assert json.loads(json.dumps(found.to_json()))["passed"] is True
    assert "items" not in found.to_json()


def test_both_sides_get_the_same_prompt_and_take_turns_at_going_first(world: World) -> None:
    heard: list[tuple[str, str]] = []

    def listens(side: str) -> Rule:
        def rule(prompt: str) -> str:
            heard.append((side, prompt))
            return right(prompt)

        return rule

    run(world, listens("live"), listens("new"), PROMPTS[:3])
    of_each = [[(s, p) for s, p in heard if f"Ticket {n}" in p] for n in range(3)]
    orders = [[side for side, _ in turns] for turns in of_each]
    assert orders == [["live", "new"], ["new", "live"], ["live", "new"]]
    assert all(one == other and SYSTEM in one for (_, one), (_, other) in of_each)


def test_a_few_prompts_are_under_way_at_once(world: World) -> None:
    engine = Scripted(world.chat_format.tokenizer, {"live": right, "new": right})
    live, new = (Side(engine, name, world.chat_format) for name in ("live", "new"))
    settings = {"match": ["intent"], "max_tokens": 48, "p95_ms": 60_000.0}
    found = asyncio.run(shadow(live, new, PROMPTS, **settings))  # type: ignore[arg-type]
    assert engine.busiest == PROMPTS_AT_ONCE
    assert [item.id for item in found.items] == [prompt.id for prompt in PROMPTS]


def test_an_error_of_the_candidate_alone_fails(world: World) -> None:
    found = run(world, right, dies)
    assert not found.passed
    assert found.reason == "the candidate failed on 1 prompts that the live version answered"
    assert found.items[7].candidate.error == "the engine is gone"


def test_an_error_that_both_have_does_not(world: World) -> None:
    assert run(world, dies, dies).passed


def test_nothing_answered_is_not_passed(world: World) -> None:
    assert not run(world, right, right, []).passed
    found = run(world, dies, dies, PROMPTS[7:8])
    assert not found.passed
    assert found.reason == "no prompt was answered by both versions"


def test_a_lost_format_fails(world: World) -> None:
    found = run(world, right, chatty)
    assert not found.passed
    assert found.reason == "the format was lost on 12 prompts and won on 0"
    assert run(world, chatty, right).passed


def test_a_few_lost_formats_are_no_evidence() -> None:
    items = timed(*[100.0] * 8) + timed(*[100.0] * 4, valid=False)
    assert judge_shadow(items, 1200).passed
    assert not judge_shadow(items + timed(100.0, valid=False), 1200).passed


def test_slow_answers_fail_when_they_are_significant() -> None:
    assert judge_shadow(timed(*[100.0] * 16, *[1300.0] * 4), 1200).passed
    found = judge_shadow(timed(*[100.0] * 15, *[1300.0] * 5), 1200)
    assert not found.passed
    assert found.reason.startswith("5 of 20 answers took longer than 1200 ms where the live")
    assert found.slow == 5


def test_what_slows_both_is_no_fault_of_the_candidate() -> None:
    assert judge_shadow(timed(*[1500.0] * 20, live_ms=1400.0), 1200).passed
    mixed = timed(*[1300.0] * 6) + timed(*[100.0] * 6, live_ms=1300.0)
    assert judge_shadow(mixed, 1200).passed


def test_evaluation_items_are_refused_as_prompts(world: World) -> None:
    with pytest.raises(DataError, match="shadow prompt 000000000000 is also an evaluation item"):
        run(world, right, right, evaluated=[PROMPTS[3].id])


def test_without_fields_any_words_are_valid_and_none_are_not(world: World) -> None:
    found = run(world, chatty, lambda prompt: " \n", match=[])
    assert (found.live_valid, found.candidate_valid) == (12, 0)
    assert not found.passed
