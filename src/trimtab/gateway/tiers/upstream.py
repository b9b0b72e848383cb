"""What went wrong with an engine, and what may be done about it."""

import asyncio
from dataclasses import dataclass, field
from time import monotonic

from trimtab.errors import (
    EngineError,
    EngineOverloaded,
    IdentityError,
    RequestRefused,
    TrimtabError,
)
from trimtab.gateway.encoders import Answerer
from trimtab.gateway.problems import Problem
from trimtab.gateway.tiers.breaker import Breaker, Permit
from trimtab.gateway.tiers.retry import RetryBudget


@dataclass(slots=True)
class Upstreams:
    """A gateway's breakers, one for each tier and version, and its one retry budget."""

    budget: RetryBudget = field(default_factory=RetryBudget)
    _breakers: dict[tuple[str, str], Breaker] = field(default_factory=dict)

    def breaker(self, served: Answerer) -> Breaker:
        place = (served.tier, served.hash)
        if place not in self._breakers:
            self._breakers[place] = Breaker(monotonic)
        return self._breakers[place]

    def states(self) -> dict[tuple[str, str], str]:
        return {place: breaker.state for place, breaker in self._breakers.items()}


def shut(wait_s: float) -> Problem:
    """What a request hears that a breaker keeps away."""
    return Problem(
        503,
        "engine_unavailable",
        "the engine of this model failed again and again; try again later",
        retryable=True,
        headers={"Retry-After": str(max(1, round(wait_s)))},
    )


def is_failure(error: BaseException) -> bool:
    """Whether it is the upstream's: another attempt or another tier may help.

    A request that can never work is the caller's; a full queue is nobody's fault, and is not held
    against the engine.
    """
    if isinstance(error, RequestRefused):
        return False
    return isinstance(error, EngineError | IdentityError | TimeoutError)


def counts(error: BaseException) -> bool:
    """Whether the breaker hears of it."""
    return is_failure(error) and not isinstance(error, EngineOverloaded)


def gave_up(permit: Permit, error: BaseException, *, silent: bool = False) -> None:
    """Tell the breaker of an attempt that ended in an error. One that was `silent` up to its
    deadline, when it was cancelled, is the upstream's fault as well."""
    if counts(error) or (silent and isinstance(error, asyncio.CancelledError)):
        permit.failed()
    else:
        permit.left()


def may_repeat(error: BaseException) -> bool:
    """Whether the same tier may do better a moment later."""
    return isinstance(error, EngineError) and not isinstance(error, EngineOverloaded)


def same_engine_is_useless(error: BaseException) -> bool:
    """A full queue is as full for another version in the same engine."""
    return isinstance(error, EngineOverloaded)


def reason(error: BaseException) -> str:
    """Why a tier did not answer, for clients: no paths, no hosts."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, EngineOverloaded):
        return "overloaded"
    if isinstance(error, IdentityError):
        return "identity_mismatch"
    return "engine_unavailable" if isinstance(error, TrimtabError) else "internal_error"
