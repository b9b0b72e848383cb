"""One line of a batch, from its claim to its end: an answer, a dead letter, or another try later.

A line is asked of the best tier alone, or of its encoder, at the priority `batch`. What it cannot
help makes it wait, without counting as an attempt: an open breaker, a full queue, an engine that
cannot be reached, a rate limit of ours, a budget that is used up, a store that cannot write. What
can never work, or failed ATTEMPTS times in the asking, is a dead letter.
"""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Coroutine
from typing import Any

from pydantic import ValidationError

from trimtab.errors import (
    BudgetExceeded,
    DataError,
    EngineError,
    EngineOverloaded,
    IdentityError,
    LedgerError,
    NotFound,
    RequestRefused,
    StorageFull,
    StoreError,
    TrimtabError,
)
from trimtab.gateway import problems
from trimtab.gateway.catalogue import Served
from trimtab.gateway.desk import Desk
from trimtab.gateway.encoders import Answerer
from trimtab.gateway.offline.endpoints import ENDPOINTS, Task
from trimtab.gateway.offline.line import Line
from trimtab.gateway.offline.outcomes import Back, Dead, LineAnswered
from trimtab.gateway.problems import LeaseLost, Problem
from trimtab.gateway.telemetry.tracing import Trace
from trimtab.gateway.tiers import upstream
from trimtab.gateway.visit import Visit

ATTEMPTS = 5
BASE_S, LONGEST_S = 1.0, 60.0
BUSY_S, BUDGET_S = 1.0, 10.0
# The longest silence. Behind interactive work a line may wait long before it begins, which is no
# judgement of an engine; and one that goes on is not stopped, however long its answer becomes.
PATIENCE_S = 600.0
ANSWERED = "answered"

log = logging.getLogger(__name__)

Outcome = Dead | Back


class NotYet(Exception):
    """The batch has to wait for `why`; the line is not to blame."""

    def __init__(self, why: str, wait_s: float) -> None:
        super().__init__(why)
        self.why = why
        self.wait_s = wait_s


async def ask(desk: Desk, line: Line) -> str:
    """Bring a line to its end and write that down; how it ended, in a word. Raises LeaseLost, and
    StoreError or StorageFull where nothing could be written: its lease runs out then."""
    try:
        task = line.request.task()
    except ValidationError as error:
        # It was checked when it came: this Trimtab reads it differently.
        unfit = Dead(line, "invalid_request", str(error.errors()[0]["msg"]))
        await desk.books.give_up(_visit(line, None), unfit)
        return unfit.reason
    visit = _visit(line, task)
    try:
        given = await _unless_silent(_given(desk, visit, task), visit)
    except LeaseLost:
        raise
    except Exception as error:
        outcome = _after(line, visit, error)
        await desk.books.give_up(visit, outcome)
        return outcome.reason if isinstance(outcome, Dead) else outcome.why or "tried_again"
    except BaseException:
        # The process ends. What nobody has seen, nobody pays; the next one begins anew.
        await desk.books.give_up(visit, Back(line, 0, attempted=False))
        raise
    answer = LineAnswered(line, lambda: task.answer(visit, given).model_dump_json())
    await desk.books.close(visit, kept=answer)
    return ANSWERED


async def _given(desk: Desk, visit: Visit, task: Task) -> Any:
    """What the engine gave. Raises what went wrong, and NotYet."""
    try:
        served = await task.answerer(desk)
    except IdentityError as error:
        raise NotYet(upstream.reason(error), BUSY_S) from error
    visit.asked = visit.served = served
    breaker = desk.upstreams.breaker(served)
    permit = breaker.allow()
    if permit is None:
        raise NotYet("breaker_open", max(BUSY_S, breaker.wait_s))
    try:
        try:
            ready = await task.ready(desk, visit, served)
        except (EngineError, IdentityError) as error:
            upstream.gave_up(permit, error)
            _forget(desk, served)
            # Nothing was asked yet, so it is not the line that this fails on.
            raise NotYet(upstream.reason(error), BUSY_S) from error
        await desk.books.reserve(visit, ready.prompt, ready.completion, ready.least)
        visit.begin_attempt()
        given = await ready.ask()
    except BaseException as error:
        upstream.gave_up(permit, error)
        if upstream.counts(error):
            _forget(desk, served)
        raise
    permit.succeeded()
    return given


def _forget(desk: Desk, served: Answerer) -> None:
    if isinstance(served, Served):
        desk.catalogue.forget(served)


async def _unless_silent(work: Coroutine[Any, Any, Any], visit: Visit) -> Any:
    """The result of `work`, which is cancelled when no token comes for too long (TimeoutError)."""
    working = asyncio.ensure_future(work)
    try:
        while True:
            before = visit.usage
            await asyncio.wait((working,), timeout=PATIENCE_S)
            if working.done():
                return working.result()
            if visit.usage == before:
                raise TimeoutError
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def _after(line: Line, visit: Visit, error: Exception) -> Outcome:
    """What becomes of a line that was not answered."""
    if isinstance(error, StoreError | StorageFull):
        return Back(line, _us(BUSY_S), attempted=False, why="store_unavailable")
    if isinstance(error, NotYet):
        return Back(line, _us(error.wait_s), attempted=False, why=error.why)
    if isinstance(error, BudgetExceeded):
        return Back(line, _us(BUDGET_S), attempted=False, why="budget_exceeded")
    if isinstance(error, EngineOverloaded):
        wait_s = min(error.retry_s, LONGEST_S)
        return Back(line, _us(wait_s), attempted=False, why="overloaded")
    if isinstance(error, Problem) and error.code == "rate_limited" and error.retryable:
        wait_s = float(error.headers.get("Retry-After", LONGEST_S))
        return Back(line, _us(wait_s), attempted=False, why="rate_limited")
    if isinstance(error, TimeoutError) and not visit.usage.completion:
        return Back(line, _us(BUSY_S), attempted=False, why="timeout")
    if isinstance(error, LedgerError):
        return Back(line, _us(LONGEST_S), attempted=False, why="ledger_unavailable")
    found = problems.of(error)
    if found.status < 500 and isinstance(error, Problem | RequestRefused | DataError | NotFound):
        return Dead(line, found.code, found.detail)
    if not isinstance(error, TrimtabError | TimeoutError):
        log.error("request %s: internal error: %s", line.request_id, type(error).__name__)
    if line.attempts + 1 >= ATTEMPTS:
        return Dead(line, upstream.reason(error), f"{ATTEMPTS} attempts failed")
    longest = min(LONGEST_S, BASE_S * 2**line.attempts)
    return Back(line, _us(random.uniform(0, longest)), attempted=True)


def _visit(line: Line, task: Task | None) -> Visit:
    asked = None if task is None else task.asked
    trace_id = (asked.trace_id if asked else None) or secrets.token_hex(16)
    return Visit(
        id=line.request_id,
        route=ENDPOINTS[line.request.url].route,
        key=line.key,
        model=asked.model if asked else "",
        trace_id=trace_id,
        trace=Trace.of_header(None).renamed(trace_id),
        session_id=asked.session_id if asked else None,
        user_id=task.user if task else None,
        arrived=time.perf_counter(),
        headers={},
        priority="batch",
        mine=line.mine,
    )


def _us(seconds: float) -> int:
    return int(seconds * 1_000_000)
