"""The way of one request over the tiers: adapter, base, and the project's safe template.

One deadline and one retry budget for the whole way. A tier is tried if its breaker lets it be, once
more where that may help, and then the next one; nothing is tried again after the client has seen a
byte. Whoever answers, the visit says which tier it was and why not a better one.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from anyio import CapacityLimiter

from trimtab.errors import BudgetExceeded, EngineUnavailable
from trimtab.gateway.bodies import Asked
from trimtab.gateway.catalogue import Resolved, Served
from trimtab.gateway.desk import Desk, Prepared
from trimtab.gateway.streams import stream
from trimtab.gateway.tiers import upstream
from trimtab.gateway.tiers.breaker import Permit
from trimtab.gateway.tiers.policies import filled
from trimtab.gateway.tiers.retry import backoff_s
from trimtab.gateway.visit import Visit
from trimtab.inference import Usage

# An answer that nobody has seen yet gives way to the next tier, while there is time left for it.
FIRST_TOKEN_SHARE = 0.5
WHOLE_SHARE = 0.9
# A timer of uvloop may fire so much too early.
TIMER_S = 0.005

Answer = TypeVar("Answer")
Given = TypeVar("Given", covariant=True)


class Work(Protocol[Given]):
    """What is asked of an engine."""

    def size(self, prepared: Prepared, served: Served) -> tuple[int, int]:
        """Tokens of completion to hold the price of, and the least that must be held."""

    async def stands_in(self, text: str, threads: CapacityLimiter) -> bool:
        """Whether a safe template may answer in place of a model; tried in `threads`."""

    async def ask(self, prepared: Prepared, visit: Visit, started: Callable[[], None]) -> Given:
        """Do it, within what the visit's hold covers. `started` hears of the first token."""


def deadline_s(resolved: Resolved) -> float:
    return resolved.deadline_s or stream.DEADLINE_S


class Answering(Generic[Answer]):
    """One request. `admit` comes first; what it refuses was never begun."""

    def __init__(
        self,
        desk: Desk,
        visit: Visit,
        body: Asked,
        resolved: Resolved,
        work: Work[Answer],
        *,
        streaming: bool = False,
    ) -> None:
        self._desk = desk
        self._visit = visit
        self._body = body
        self._work = work
        self._streaming = streaming
        self._tiers = list(resolved.tiers)
        self._template = resolved.template
        self._deadline = visit.deadline = visit.arrived + deadline_s(resolved)
        self._prepared: Prepared | None = None
        self._permit: Permit | None = None
        self._why: list[str] = []
        self._error: BaseException | None = None
        self._repeats = 0
        self.seen = False
        """Set when the client has got a part of the answer."""

    @property
    def left_s(self) -> float:
        return self._deadline - time.perf_counter()

    @property
    def templated(self) -> bool:
        """Whether the safe template answers in place of a model."""
        return self._visit.templated

    @property
    def safe_text(self) -> str:
        """What answers in place of a model, once it has come to that."""
        visit = self._visit
        assert self._template is not None
        values = {
            "deployment": visit.model,
            "trace_id": visit.trace_id,
            "session_id": visit.session_id,
            "user_id": visit.user_id,
            "reason": visit.degraded_reason,
        }
        return filled(self._template, values)

    async def admit(self) -> None:
        """Find the first tier that can answer, and hold its price.

        Raises the caller's own faults, the upstream's where no tier is left, and Problem where the
        deadline passes first.
        """
        self._desk.upstreams.budget.note_request()
        try:
            async with asyncio.timeout(self.left_s) as limit:
                await self._enter_one()
        except TimeoutError:
            if limit.expired():
                raise stream.too_late() from None
            raise

    async def run(self) -> Answer | None:
        """The answer; None where the safe template has to stand in for it."""
        while not self._visit.templated:
            assert self._prepared is not None
            try:
                return await self._attempt(self._prepared)
            except Exception as error:
                if self.seen or not upstream.is_failure(error):
                    raise
                self._failed(error)
                await self._go_on(error)
        return None

    async def _enter_one(self) -> None:
        while self._prepared is None and not self._visit.templated:
            await self._enter()

    async def _enter(self) -> None:
        """Prepare the tier at hand, or give it up for the next one."""
        if not self._tiers:
            await self._end()
            return
        served = self._tiers[0]
        self._permit = self._desk.upstreams.breaker(served).allow()
        if self._permit is None:
            wait_s = self._desk.upstreams.breaker(served).wait_s
            self._error = self._error or upstream.shut(wait_s)
            self._leave("breaker_open")
            return
        try:
            await self._prepare(served)
        except BudgetExceeded as error:
            self._permit.left()
            if not self._why:
                raise
            # A lower tier that costs more than is left is no reason to say less than a template.
            self._error = error
            self._leave("budget_exceeded")
        except Exception as error:
            if not upstream.is_failure(error):
                self._permit.left()
                raise
            self._failed(error)
            self._next(error)
        except BaseException as error:
            self._give_up(error)
            raise

    async def _prepare(self, served: Served) -> None:
        visit = self._visit
        visit.served = served
        async with asyncio.timeout(self._allowed(FIRST_TOKEN_SHARE)):
            prepared = await self._desk.prepare(visit, self._body, served)
        completion, least = self._work.size(prepared, served)
        await self._desk.books.reserve(visit, len(prepared.prompt), completion, least)
        visit.degraded = bool(self._why)
        visit.degraded_reason = "; ".join(self._why) or None
        self._prepared = prepared

    async def _attempt(self, prepared: Prepared) -> Answer:
        assert self._permit is not None
        self._visit.begin_attempt()
        try:
            async with asyncio.timeout(self._allowed(FIRST_TOKEN_SHARE)) as limit:

                def started() -> None:
                    self.seen = self._visit.heard = self._streaming
                    limit.reschedule(self._whole_until())

                answer = await self._work.ask(prepared, self._visit, started)
        except BaseException as error:
            self._give_up(error)
            raise
        self._permit.succeeded()
        return answer

    def _give_up(self, error: BaseException) -> None:
        """Tell the breaker of an end that was no answer."""
        assert self._permit is not None
        silent = self._visit.ttft_ms is None and self.left_s < TIMER_S
        upstream.gave_up(self._permit, error, silent=silent)

    def _allowed(self, share: float) -> float | None:
        """Seconds for a part of the way, where somebody else could still answer after it."""
        others = len(self._tiers) > 1 or self._template is not None
        return max(0.0, self.left_s * share) if others else None

    def _whole_until(self) -> float | None:
        """Until when an attempt that has begun to answer may go on (seconds, the loop's time)."""
        if self.seen or self._template is None:
            return None
        return asyncio.get_running_loop().time() + max(0.0, self.left_s * WHOLE_SHARE)

    def _failed(self, error: BaseException) -> None:
        self._desk.catalogue.forget(self._tiers[0])
        self._give_up(error)
        self._error = error

    async def _go_on(self, error: BaseException) -> None:
        """After a failure: the same tier once more, or the next one, or an error."""
        budget = self._desk.upstreams.budget
        if upstream.may_repeat(error) and self._repeats == 0:
            wait_s = backoff_s(self._repeats + 1)
            permit = self._desk.upstreams.breaker(self._tiers[0]).allow()
            if permit is not None and wait_s < self.left_s and budget.spend():
                self._repeats += 1
                try:
                    await asyncio.sleep(wait_s)
                except BaseException:
                    permit.left()
                    raise
                self._permit = permit
                return
            if permit is not None:
                permit.left()
        self._next(error)
        await self._enter_one()

    def _next(self, error: BaseException) -> None:
        """Give up the tier at hand, and those below that would not fare better."""
        useless = upstream.same_engine_is_useless(error)
        # Nobody gives the time back that an answer took before it was given up half-way.
        useless |= self._visit.ttft_ms is not None and isinstance(error, TimeoutError)
        another = len(self._tiers) > 1 and self.left_s > 0 and not useless
        # The deadline and the retry budget decide, not how many tiers there are.
        ends = not (another and self._desk.upstreams.budget.spend())
        self._leave(upstream.reason(error))
        if ends:
            self._tiers = []

    def _leave(self, why: str) -> None:
        self._why.append(f"{self._tiers[0].tier}: {why}")
        self._tiers.pop(0)
        self._prepared = None
        self._repeats = 0

    async def _stands_in(self) -> bool:
        if self._template is None:
            return False
        if self._visit.reserved is None:
            # Before a schema is tried, which costs more than most answers.
            await self._desk.books.knock(self._visit)
        return await self._work.stands_in(self.safe_text, self._desk.trials)

    async def _end(self) -> None:
        """No engine answers: the template does, or nobody."""
        visit = self._visit
        visit.degraded_reason = "; ".join(self._why) or None
        if not await self._stands_in():
            # The log shows the version that was asked for, not the last one that was tried.
            visit.served, visit.degraded_reason = visit.asked, None
            if isinstance(self._error, TimeoutError):
                raise stream.too_late()
            raise self._error or EngineUnavailable("no tier could answer")
        visit.templated = visit.degraded = True
        visit.usage, visit.finish_reason = Usage(0, 0), "stop"
