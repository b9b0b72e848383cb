"""What a vLLM server's frames say: tokens, log-probabilities, what was cached."""

import math
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from trimtab.engine.sampling.drawn import Drawn
from trimtab.errors import EngineError
from trimtab.inference import Chunk


def drawn_in(event: dict[str, Any], top: int) -> list[Drawn]:
    """The tokens of a frame, each with the `top` likeliest in its place."""
    found: list[Drawn] = []
    for choice in event["choices"]:
        if not (tokens := choice.get("token_ids")):
            continue
        told = choice["logprobs"]
        # Of the likeliest, the token that was drawn is one more where it is not among them.
        likeliest = told["top_logprobs"] if top else [{}] * len(tokens)
        for token, logprob, row in zip(tokens, told["token_logprobs"], likeliest, strict=True):
            best = sorted(
                ((int(name.removeprefix("token_id:")), value) for name, value in row.items()),
                key=lambda pair: -pair[1],
            )
            found.append(Drawn(token, finite(logprob), tuple(best[:top])))
    return found


async def with_cached(
    last: Chunk, event: dict[str, Any], events: AsyncIterator[dict[str, Any]]
) -> Chunk:
    """The last chunk with the cached tokens, which the server tells in a frame of its own, after
    an answer that ended there too.
    """
    if last.usage is None or not any(c.get("finish_reason") for c in event["choices"]):
        return last
    async for after in events:
        if usage := after.get("usage"):
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            return replace(last, usage=replace(last.usage, cached=cached))
    return last


def finite(logprob: float | None) -> float:
    if logprob is None or not math.isfinite(logprob):
        raise EngineError(
            "vLLM gave a log-probability that is not a finite number",
            hint="are the weights damaged, or is the dtype too narrow for this model?",
        )
    return logprob
