"""One request on its way: who asked, who answers, what was used so far.

Only a value that fills as the request goes on; what the ledger and the journal make of it is in
`books`.
"""

import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import State

from trimtab.gateway.bodies import Asked, UsageBody
from trimtab.gateway.encoders import Answerer
from trimtab.gateway.keys import Key
from trimtab.gateway.telemetry.tracing import Trace
from trimtab.inference import Chunk, FinishReason, Priority, Runtime, Usage
from trimtab.ledger.money import Price, usd
from trimtab.ledger.reservation import Hold
from trimtab.store.database import Connection
from trimtab.store.ids import new_id

SAFE_TEMPLATE = "safe_template"


@dataclass(frozen=True, slots=True)
class Reserved:
    """The hold of a request, its price, and how many tokens of completion it covers.

    `metered` tokens were taken from the key's rate limit.
    """

    hold: Hold
    price: Price
    completion_tokens: int
    metered: int


@dataclass(slots=True)
class Visit:
    """`served` and `runtime` are known once the model is resolved and its engine reached,
    `reserved` once the ledger holds the price, `latency_ms` and `cost_nano` once it is settled.

    `asked` is the version that should have answered. `headers` go out with the answer. Work of the
    priority `batch` belongs to whoever holds its lease: `mine` tells, inside a transaction, whether
    that is still us. `deadline` is when whoever asked has left (by `time.perf_counter`), None where
    nobody waits. `heard` is set once the client has got a part of the answer, `forgiven` where the
    answer was lost by us: nobody pays for it. `knocked` is set once a request that holds no price
    was counted, `ended` once the books were told that it is over. `guessed` are the choices that
    the engine has told no count of its own of: what of the prompt it remembered is not known then.
    `begun_s` is when it was taken up, in seconds since the epoch. `words` tells what was asked and
    what was answered, where the project wants that kept.
    """

    id: str
    route: str
    key: Key
    model: str
    trace_id: str
    trace: Trace
    session_id: str | None
    user_id: str | None
    arrived: float
    headers: MutableMapping[str, str]
    asked: Answerer | None = None
    served: Answerer | None = None
    runtime: Runtime | None = None
    reserved: Reserved | None = None
    usage: Usage = field(default_factory=lambda: Usage(0, 0))
    counted: dict[int, Usage] = field(default_factory=dict)
    guessed: set[int] = field(default_factory=set)
    ttft_ms: float | None = None
    finish_reason: FinishReason | None = None
    attempts: int = 0
    degraded: bool = False
    degraded_reason: str | None = None
    templated: bool = False
    heard: bool = False
    forgiven: bool = False
    knocked: bool = False
    ended: bool = False
    latency_ms: float = 0.0
    cost_nano: int = 0
    priority: Priority = "interactive"
    mine: Callable[[Connection], bool] | None = None
    deadline: float | None = None
    words: Callable[[], tuple[str, Sequence[str]]] | None = None
    begun_s: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def of(cls, state: State, route: str, body: Asked) -> "Visit":
        """Take up a request that the door let in. The body's trace id goes before the header's."""
        if body.trace_id is not None:
            state.trace_id = body.trace_id
            state.trace = state.trace.renamed(body.trace_id)
        state.visit = visit = cls(
            id=f"req_{new_id()}",
            route=route,
            key=state.key,
            model=body.model,
            trace_id=state.trace_id,
            trace=state.trace,
            session_id=body.session_id,
            user_id=body.user_id,
            arrived=state.arrived,
            headers=state.headers,
        )
        return visit

    @property
    def tier(self) -> str | None:
        """Who answers; None while it is not known."""
        if self.templated:
            return SAFE_TEMPLATE
        return self.served.tier if self.served else None

    @property
    def patience_s(self) -> float | None:
        """How long an answer is still wanted."""
        return None if self.deadline is None else max(0.0, self.deadline - time.perf_counter())

    def elapsed_ms(self) -> float:
        """Milliseconds since admission."""
        return (time.perf_counter() - self.arrived) * 1000

    def begin_attempt(self) -> None:
        """Forget what an attempt before this one used: nobody has seen it, and nobody pays it."""
        self.attempts += 1
        self.usage, self.ttft_ms, self.finish_reason = Usage(0, 0), None, None
        self.counted.clear()
        self.guessed.clear()

    def count(self, chunk: Chunk, prompt_tokens: int, choice: int = 0) -> None:
        """Add what a chunk of one of the choices brought; the engine's own count, in its last one,
        replaces ours. The prompt counts once, however many choices it has.
        """
        if self.ttft_ms is None and chunk.tokens:
            self.ttft_ms = self.elapsed_ms()
        counted = self.counted
        if chunk.usage is not None:
            counted[choice] = chunk.usage
            self.guessed.discard(choice)
        elif chunk.tokens:
            before = counted[choice].completion if choice in counted else 0
            counted[choice] = Usage(prompt_tokens, before + len(chunk.tokens))
            self.guessed.add(choice)
        if len(counted) == 1:
            [self.usage] = counted.values()
        elif counted:
            self.usage = Usage(
                max(usage.prompt for usage in counted.values()),
                sum(usage.completion for usage in counted.values()),
                min(usage.cached for usage in counted.values()),
            )

    def answered(self) -> dict[str, Any]:
        """The fields that every answer carries. The books must be closed, the cost known."""
        usage = self.usage
        return {
            "id": self.id,
            "trace_id": self.trace_id,
            "session_id": self.session_id,
            "user_id": self.user_id,
            "model": self.model,
            "model_version": self.answering_version,
            "runtime": self.runtime.name if self.runtime and not self.templated else None,
            "tier": self.tier,
            "degraded": self.degraded,
            "degraded_reason": self.degraded_reason,
            "latency_ms": round(self.latency_ms, 3),
            "tokens_used": usage.prompt + usage.completion,
            "usage": UsageBody(
                prompt=usage.prompt, completion=usage.completion, cached=usage.cached
            ),
            "cost_usd": usd(self.cost_nano),
        }

    @property
    def answering_version(self) -> str | None:
        """The hash of the version that answers; the safe template is none."""
        return self.served.hash if self.served and not self.templated else None
