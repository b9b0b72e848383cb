"""What the ledger, the limits and the journal hear of a request: a hold before work, one settlement
after it.

The cost in the answer, in the log and in the ledger is one integer, written in one transaction.
Many requests share a transaction: see `group`.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from trimtab.errors import BudgetExceeded, LedgerError, StorageFull, StoreError, TrimtabError
from trimtab.gateway import keys, problems
from trimtab.gateway.group import GroupCommit
from trimtab.gateway.keys import Key
from trimtab.gateway.limits import Meters, Verdict
from trimtab.gateway.metrics import Metrics
from trimtab.gateway.problems import ClientGone, Problem
from trimtab.gateway.replays import Replay, keep_all
from trimtab.gateway.replays import beat as beat_replays
from trimtab.gateway.visit import Reserved, Visit
from trimtab.journal import requests
from trimtab.ledger import reservation
from trimtab.ledger.accounts import account_of
from trimtab.ledger.money import Price
from trimtab.ledger.prices import no_price, prices_of
from trimtab.ledger.reservation import Wanted
from trimtab.ledger.tables import database_now
from trimtab.ledger.till import Till
from trimtab.store.database import Connection, Database

# A hold lives as long as its gateway beats; after a crash it is settled when it expires.
HOLD_US = 60 * 1_000_000
BEAT_S = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opening:
    """Hold the price of `prompt` and `completion` tokens, or of at least `least` of the latter."""

    visit: Visit
    version: str
    accounts: tuple[str, ...]
    prompt: int
    completion: int
    least: int


@dataclass(frozen=True, slots=True)
class Closing:
    """Settle and log; `replay` is kept for who asks again."""

    visit: Visit
    status: int
    error_code: str | None
    replay: Replay | None


@dataclass(frozen=True, slots=True)
class Admitted:
    reserved: Reserved
    verdict: Verdict | None


class Books:
    """One for a gateway."""

    def __init__(self, database: Database) -> None:
        self.owner = f"gateway {os.getpid()}-{secrets.token_hex(4)}"
        self.metrics = Metrics(str(os.getpid()))
        self._database = database
        self._group: GroupCommit[Opening | Closing] = GroupCommit(database, self._do)
        self._open: dict[str, Visit] = {}
        self._beating: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> int:
        """Requests whose price is held."""
        return len(self._open)

    async def reserve(self, visit: Visit, prompt: int, completion: int, least: int) -> None:
        """Hold the price of `prompt` and `completion` tokens, or of as many tokens of completion
        as the budgets can still pay for. Asked again, in place of what was held.

        Raises BudgetExceeded for fewer than `least`, and Problem where a rate limit is used up.
        """
        assert visit.served is not None
        version = visit.served.version
        accounts = (
            account_of("key", visit.key.id),
            account_of("owner", visit.key.owner),
            account_of("project", version.project),
        )
        opening = Opening(visit, visit.served.hash, accounts, prompt, completion, least)
        self._beat()
        # Once asked for, a hold is made, and a client that leaves meanwhile must not leave it open.
        doing = asyncio.ensure_future(self._group.do(opening))
        try:
            admitted: Admitted = await asyncio.shield(doing)
        except asyncio.CancelledError:
            await asyncio.wait([doing])
            if doing.exception() is None:
                self._take(visit, doing.result())
            raise
        except Problem as refused:
            visit.headers.update(refused.headers)
            if refused.code == "rate_limited":
                self.metrics.note_refusal(dry_run=False)
            raise
        self._take(visit, admitted)

    def _take(self, visit: Visit, admitted: Admitted) -> None:
        visit.reserved = admitted.reserved
        self._open[visit.id] = visit
        if admitted.verdict is not None:
            visit.headers.update(admitted.verdict.headers())
            if admitted.verdict.refused is not None:
                self.metrics.note_refusal(dry_run=True)

    @asynccontextmanager
    async def accounted(self, visit: Visit) -> AsyncIterator[None]:
        """Whatever fails inside is settled and logged before the error goes on.

        What succeeds is closed by the caller, who needs the cost for the answer.
        """
        try:
            yield
        except BaseException as error:
            if isinstance(error, ClientGone):
                visit.finish_reason = "cancelled"
            # A store that would not take the hold would not take the log line either.
            if visit.reserved is not None or not isinstance(error, StoreError | StorageFull):
                problem = problems.of(error)
                await self.close(visit, problem.status, problem.code)
            raise

    async def close(
        self,
        visit: Visit,
        status: int = 200,
        error_code: str | None = None,
        replay: Replay | None = None,
    ) -> None:
        """Settle what was used and log the request; `visit` has its latency and cost after it."""
        visit.latency_ms = visit.elapsed_ms()
        self._open.pop(visit.id, None)
        closing = asyncio.ensure_future(self._group.do(Closing(visit, status, error_code, replay)))
        visit.cost_nano = await asyncio.shield(closing)
        self.metrics.note(visit, status, error_code)

    async def settled(self) -> None:
        """Wait until everything that was asked for is written."""
        await self._group.settled()
        if self._beating is not None:
            self._beating.cancel()

    def _do(self, connection: Connection, items: Sequence[Opening | Closing]) -> Sequence[Any]:
        openings = [item for item in items if isinstance(item, Opening)]
        closings = [item for item in items if isinstance(item, Closing)]
        held = [item.visit.reserved for item in items if item.visit.reserved is not None]
        accounts = {name for item in openings for name in item.accounts}
        accounts |= {name for reserved in held for name in reserved.hold.accounts}
        till = Till(connection, accounts, [reserved.hold.id for reserved in held])
        known = keys.of_ids(connection, [o.visit.key.id for o in openings]) if openings else {}
        meters = Meters(connection, [item.visit.key for item in items], till.now_us)
        versions = {item.version for item in openings}
        prices = prices_of(connection, versions, till.now_us) if openings else {}
        done: dict[int, Any] = {}
        # What is freed first may be reserved at once.
        for closing in closings:
            done[id(closing)] = self._close(till, meters, closing)
        for opening in openings:
            key, price = known.get(opening.visit.key.id), prices.get(opening.version)
            try:
                done[id(opening)] = self._reserve(till, meters, key, price, opening)
            except (TrimtabError, Problem) as error:
                done[id(opening)] = error
        till.write()
        meters.write()
        entries = [_entry(item, done[id(item)]) for item in closings]
        requests.record_all(connection, entries)
        keep_all(connection, [item.replay for item in closings if item.replay is not None])
        return [done[id(item)] for item in items]

    def _reserve(
        self, till: Till, meters: Meters, key: Key | None, price: Price | None, item: Opening
    ) -> Admitted:
        if key is None or not key.opens(till.now_us):
            raise Problem(401, "wrong_key", "this key is unknown, expired or revoked")
        if price is None:
            raise no_price(item.version)
        visit, before = item.visit, item.visit.reserved
        tokens = item.prompt + item.completion
        wanted = Wanted(
            key_id=key.id,
            request_id=visit.id,
            accounts=item.accounts,
            fixed=price.of(item.prompt, 0),
            floor=price.of(item.prompt, 0),
            expires_us=till.now_us + HOLD_US,
            owner=self.owner,
            unit=price.completion_nano,
            units=item.completion,
            least=item.least,
        )
        if before is not None:
            hold, units = till.exchange(before.hold.id, wanted)
            return Admitted(Reserved(hold, price, units, before.metered), None)
        verdict = meters.take(key, tokens)
        if verdict.enforced:
            raise _limited(verdict, tokens)
        try:
            hold, units = till.reserve(wanted)
        except (BudgetExceeded, LedgerError):
            meters.undo(key, tokens)
            raise
        return Admitted(Reserved(hold, price, units, tokens), verdict)

    def _close(self, till: Till, meters: Meters, item: Closing) -> int:
        visit, reserved = item.visit, item.visit.reserved
        if reserved is None:
            return 0
        usage = visit.usage
        used = reserved.price.of(usage.prompt, usage.completion)
        # Whatever an engine counts, nobody pays more than was held.
        hold = till.settle(reserved.hold.id, min(used, reserved.hold.amount_nano))
        meters.give_back(visit.key, reserved.metered - usage.prompt - usage.completion)
        # The answer that is kept for a replay names it.
        visit.cost_nano = hold.settled_nano or 0
        return visit.cost_nano

    def _beat(self) -> None:
        if self._beating is None or self._beating.done():
            self._beating = asyncio.create_task(self._keep_open())

    async def _keep_open(self) -> None:
        """Say, while work is under way, that this gateway lives, and what the work cost so far."""
        await asyncio.sleep(BEAT_S)
        while self._open:
            floors = [
                (reserved.hold.id, reserved.price.of(visit.usage.prompt, visit.usage.completion))
                for visit in self._open.values()
                if (reserved := visit.reserved) is not None and visit.usage.completion
            ]
            try:
                await asyncio.to_thread(self._note, floors)
            except TrimtabError as error:
                # The next beat comes soon, and a hold outlives several.
                log.warning("holds could not be extended: %s", error)
            await asyncio.sleep(BEAT_S)

    def _note(self, floors: Sequence[tuple[str, int]]) -> None:
        with self._database.transaction(durable=False) as connection:
            expires_us = database_now(connection) + HOLD_US
            reservation.beat(connection, self.owner, expires_us)
            beat_replays(connection, self.owner, expires_us)
            reservation.note(connection, floors)


def _limited(verdict: Verdict, tokens: int) -> Problem:
    assert verdict.refused is not None
    reading = verdict.readings[verdict.refused]
    if reading.retry_s is None:
        detail = f"{tokens} tokens are above this key's limit of {reading.quota} a minute"
    else:
        detail = f"{reading.quota} {verdict.refused} a minute are used up"
    return Problem(
        429,
        "rate_limited",
        detail,
        retryable=reading.retry_s is not None,
        headers=verdict.headers(),
    )


def _entry(item: Closing, cost: int) -> requests.Answered:
    visit = item.visit
    served, runtime, usage = visit.served, visit.runtime, visit.usage
    return requests.Answered(
        id=visit.id,
        trace_id=visit.trace_id,
        route=visit.route,
        status=item.status,
        latency_ms=visit.latency_ms,
        session_id=visit.session_id,
        user_id=visit.user_id,
        key_id=visit.key.id,
        deployment=served.deployment if served else None,
        asked_version=visit.asked.hash if visit.asked else None,
        model_version=visit.answering_version,
        runtime=runtime.name if runtime and not visit.templated else None,
        tier=visit.tier,
        degraded=visit.degraded,
        degraded_reason=visit.degraded_reason,
        attempts=visit.attempts,
        finish_reason=visit.finish_reason,
        prompt_tokens=usage.prompt,
        completion_tokens=usage.completion,
        cached_tokens=usage.cached,
        ttft_ms=visit.ttft_ms,
        cost_nano=cost,
        error_code=item.error_code,
    )
