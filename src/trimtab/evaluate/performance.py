"""The performance suite: how fast does a version answer when it is asked alone?

One request after another, as one user would feel it; load is another question. The figures hold
for the runtime and the machine that the engine runs on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.evaluate.asking import OnItem, ask
from trimtab.evaluate.items import Item
from trimtab.evaluate.report import Report
from trimtab.inference import Engine
from trimtab.stats.quantile import quantile
from trimtab.text.chat import ChatFormat


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
    requests: int = 12,
    on_item: OnItem | None = None,
) -> Report[PerformanceItem]:
    """Time the first `requests` items by id. The first is asked once more beforehand, untimed,
    because the first answer after a load also pays for memory that later ones find warm."""
    chosen = sorted(items, key=lambda item: item.id)[:requests]
    timed: list[PerformanceItem] = []
    for item in (*chosen[:1], *chosen):
        prompt = chat_format.prompt_tokens(chat_format.messages_of(item.messages))
        completion, latency_ms = await ask(engine, version, prompt, max_tokens)
        usage = completion.usage
        timed.append(PerformanceItem(item.id, latency_ms, usage.prompt, usage.completion))
        if on_item is not None and len(timed) > 1:
            on_item()
    measured = tuple(timed[1:])
    runtime = (await engine.capabilities()).runtime.name
    summary = _summary(measured, max_tokens)
    return Report("performance", version, runtime, measured, summary)


def _summary(items: Sequence[PerformanceItem], max_tokens: int) -> dict[str, Any]:
    settings = {"max_tokens": max_tokens}
    if not items:
        return {"items": 0, "settings": settings}
    latencies = [item.latency_ms for item in items]
    return {
        "items": len(items),
        "settings": settings,
        "p50_ms": quantile(latencies, 0.5),
        "p95_ms": quantile(latencies, 0.95),
        "tokens_per_s": sum(item.tokens for item in items) / (sum(latencies) / 1000),
    }
