"""The performance suite: how fast does a version answer when it is asked alone?

One request after another, as one user would feel it; load is another question. The figures hold
for the runtime and the machine that the engine runs on. Each question is marked with a number that
nobody used before: an engine remembers what it has read, and a user's question would be new to it.

It is there for the gate's veto on a version whose typical answer is too slow, and eight requests
are enough for that. Three slow ones among them veto: were 5 % slow in truth, they would come with
a chance of 0.6 %, below the 1.7 % that Holm's correction leaves to the first of three suites. A
version that is too slow every other time shows three with a chance of 86 %. A rarer slowness is for
the monitor, which sees every request.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from trimtab.canonical import content_hash
from trimtab.errors import RequestRefused
from trimtab.evaluate.asking import OnItem, ask, refuse_silence
from trimtab.evaluate.items import Item
from trimtab.evaluate.report import Report
from trimtab.inference import Engine
from trimtab.stats.quantile import quantile
from trimtab.text.chat import ChatFormat

REQUESTS = 8


@dataclass(frozen=True, slots=True)
class PerformanceItem:
    """One timed answer: milliseconds from asking to the last token, and the token counts."""

    id: str
    latency_ms: float
    prompt_tokens: int
    tokens: int


async def run_performance(
    engine: Engine,
    version: str,
    chat_format: ChatFormat,
    items: Sequence[Item],
    max_tokens: int,
    requests: int = REQUESTS,
    on_item: OnItem | None = None,
) -> Report[PerformanceItem]:
    """Time the first `requests` items by id. The first is asked once more beforehand, untimed,
    because the first answer after a load also pays for memory that later ones find warm.

    Items that the engine refuses are counted; raises DataError where it refuses all of them.
    """
    chosen = sorted(items, key=lambda item: item.id)[:requests]
    timed: list[PerformanceItem] = []
    refusals: list[str] = []
    for item in chosen:
        try:
            if not timed:
                await ask(engine, version, _new_prompt(chat_format, item), max_tokens)
            prompt = _new_prompt(chat_format, item)
            completion, latency_ms = await ask(engine, version, prompt, max_tokens)
        except RequestRefused as error:
            refusals.append(error.message)
        else:
            usage = completion.usage
            timed.append(PerformanceItem(item.id, latency_ms, usage.prompt, usage.completion))
        if on_item is not None:
            on_item()
    refuse_silence("performance", refusals, len(chosen))
    runtime = (await engine.capabilities()).runtime.name
    summary = _summary(timed, len(refusals), performance_settings(items, max_tokens, requests))
    return Report("performance", version, runtime, tuple(timed), summary)


def _new_prompt(chat_format: ChatFormat, item: Item) -> tuple[int, ...]:
    *before, last = item.messages
    marked = replace(last, content=f"({uuid.uuid4().hex[:8]}) {last.content}")
    return chat_format.prompt_tokens(chat_format.messages_of((*before, marked)))


def performance_settings(
    items: Sequence[Item], max_tokens: int, requests: int = REQUESTS
) -> dict[str, Any]:
    """What decides a report beside the version and the runtime."""
    chosen = sorted(item.id for item in items)[:requests]
    return {"max_tokens": max_tokens, "asked": content_hash(chosen)}


def _summary(
    items: Sequence[PerformanceItem], refused: int, settings: dict[str, Any]
) -> dict[str, Any]:
    if not items:
        return {"items": 0, "settings": settings}
    latencies = [item.latency_ms for item in items]
    return {
        "items": len(items),
        "settings": settings,
        "refused": refused,
        "p50_ms": quantile(latencies, 0.5),
        "p95_ms": quantile(latencies, 0.95),
        "tokens_per_s": sum(item.tokens for item in items) / (sum(latencies) / 1000),
    }
