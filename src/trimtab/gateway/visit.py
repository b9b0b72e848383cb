"""One request on its way: who asked, who answers, what was used so far.

Only a value that fills as the request goes on; what the ledger and the journal make of it is in
`books`.
"""

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from trimtab.gateway.bodies import Asked, UsageBody
from trimtab.gateway.catalogue import Served
from trimtab.inference import Chunk, FinishReason, Runtime, Usage
from trimtab.ledger.holds import Hold
from trimtab.ledger.money import Price, usd


@dataclass(frozen=True, slots=True)
class Reserved:
    """The hold of a request, its price, and how many tokens of completion it covers."""

    hold: Hold
    price: Price
    completion_tokens: int


@dataclass(slots=True)
class Visit:
    """`served` and `runtime` are known once the model is resolved and its engine reached,
    `reserved` once the ledger holds the price, `latency_ms` and `cost_nano` once it is settled.
    """

    id: str
    route: str
    key: str
    model: str
    trace_id: str
    session_id: str | None
    user_id: str | None
    arrived: float
    served: Served | None = None
    runtime: Runtime | None = None
    reserved: Reserved | None = None
    usage: Usage = field(default_factory=lambda: Usage(0, 0))
    ttft_ms: float | None = None
    finish_reason: FinishReason | None = None
    latency_ms: float = 0.0
    cost_nano: int = 0

    @classmethod
    def of(cls, request: Request, route: str, body: Asked) -> "Visit":
        """Take up a request that the door let in. The body's trace id goes before the header's."""
        state = request.state
        if body.trace_id is not None:
            state.trace_id = body.trace_id
            state.trace = state.trace.renamed(body.trace_id)
        return cls(
            id=f"req_{secrets.token_hex(16)}",
            route=route,
            key=state.key.id,
            model=body.model,
            trace_id=state.trace_id,
            session_id=body.session_id,
            user_id=body.user_id,
            arrived=state.arrived,
        )

    def elapsed_ms(self) -> float:
        """Milliseconds since admission."""
        return (time.perf_counter() - self.arrived) * 1000

    def count(self, chunk: Chunk, prompt_tokens: int) -> None:
        """Add what a chunk brought; the engine's own count, in the last one, replaces ours."""
        if self.ttft_ms is None and chunk.tokens:
            self.ttft_ms = self.elapsed_ms()
        if chunk.usage is not None:
            self.usage = chunk.usage
            self.finish_reason = chunk.finish_reason
        elif chunk.tokens:
            self.usage = Usage(prompt_tokens, self.usage.completion + len(chunk.tokens))

    def answered(self) -> dict[str, Any]:
        """The fields that every answer carries. The books must be closed, the cost known."""
        assert self.served is not None
        assert self.runtime is not None
        usage = self.usage
        return {
            "id": self.id,
            "trace_id": self.trace_id,
            "session_id": self.session_id,
            "user_id": self.user_id,
            "model": self.model,
            "model_version": self.served.version.hash,
            "runtime": self.runtime.name,
            "tier": self.served.tier,
            "latency_ms": round(self.latency_ms, 3),
            "tokens_used": usage.prompt + usage.completion,
            "usage": UsageBody(
                prompt=usage.prompt, completion=usage.completion, cached=usage.cached
            ),
            "cost_usd": usd(self.cost_nano),
        }
