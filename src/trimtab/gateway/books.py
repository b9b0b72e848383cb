"""What the ledger, the limits and the journal hear of a request: a hold before work, one settlement
after it.

The cost in the answer, in the log and in the ledger is one integer, written in one transaction.
Many requests share a transaction: see `group`.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from trimtab.errors import StoreRefused, TrimtabError
from trimtab.gateway import keys, problems, replays, spoken
from trimtab.gateway.group import STORE, GroupCommit
from trimtab.gateway.heartbeat import LIFE_US, Heartbeat
from trimtab.gateway.keys import Key
from trimtab.gateway.limits import Meters, Verdict
from trimtab.gateway.metrics import Metrics
from trimtab.gateway.problems import ClientGone, LeaseLost, Problem
from trimtab.gateway.replays import Claim, Replay
from trimtab.gateway.visit import Reserved, Visit
from trimtab.journal import requests, words
from trimtab.ledger.accounts import account_of
from trimtab.ledger.money import Price
from trimtab.ledger.prices import no_price, prices_of
from trimtab.ledger.reservation import NEVER_US, Wanted
from trimtab.ledger.till import Till
from trimtab.store.database import Connection, Database

if TYPE_CHECKING:
    from trimtab.gateway.spans import Spans


class Kept(Protocol):
    """What is written down with a settlement, in its transaction; the cost is known by then.

    `locks` names the row that others may change too: they are taken in the order of these names.
    """

    @property
    def locks(self) -> str: ...

    def keep(self, connection: Connection) -> None: ...


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
    """Settle and log, and keep what is to be kept. One that is `void` came to nothing: neither
    settled nor logged, as if it had never been asked. One that is `late` was refused by the store
    before."""

    visit: Visit
    status: int
    error_code: str | None
    kept: Kept | None
    void: bool = False
    late: bool = False


@dataclass(frozen=True, slots=True)
class Knock:
    """Count a request that holds no price against the limit of its key."""

    visit: Visit


@dataclass(frozen=True, slots=True)
class Admitted:
    reserved: Reserved
    verdict: Verdict | None


# What says that a limit or a budget stands in the way takes nothing from it, as elsewhere; and who
# leaves is told nothing.
_UNCOUNTED = frozenset({"rate_limited", "budget_exceeded", "client_gone", "stopping"})
Item = Opening | Closing | Knock


class Books:
    """One for a gateway. What is written down is told to `spans` as well."""

    def __init__(self, database: Database, spans: "Spans | None" = None) -> None:
        self.owner = f"gateway {os.getpid()}-{secrets.token_hex(4)}"
        self.metrics = Metrics(str(os.getpid()))
        self._spans = spans
        self._group: GroupCommit[Item] = GroupCommit(database, self._do)
        self._life = Heartbeat(database, self._pay)
        self._owed: dict[str, Closing] = {}
        self._closing: dict[str, asyncio.Future[None]] = {}

    @property
    def in_flight(self) -> int:
        """Requests whose price is held."""
        return len(self._life.visits)

    @property
    def interactive(self) -> int:
        """How many of them somebody waits for."""
        return sum(visit.priority == "interactive" for visit in self._life.visits.values())

    async def reserve(self, visit: Visit, prompt: int, completion: int, least: int) -> None:
        """Hold the price of `prompt` and `completion` tokens, or of as many tokens of completion
        as the budgets can still pay for. Asked again, in place of what was held.

        Raises BudgetExceeded for fewer than `least`, and Problem where a rate limit is used up.
        """
        assert visit.served is not None
        project = visit.served.project
        accounts = (
            account_of("key", visit.key.id),
            account_of("owner", visit.key.owner),
            *([account_of("project", project)] if project is not None else []),
        )
        opening = Opening(visit, visit.served.hash, accounts, prompt, completion, least)
        self._life.start()
        # Once asked for, a hold is made, and a client that leaves meanwhile must not leave it open.
        doing = asyncio.ensure_future(self._group.do(opening))
        try:
            admitted: Admitted = await asyncio.shield(doing)
        except asyncio.CancelledError:
            while not doing.done():
                with suppress(asyncio.CancelledError):
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
        self._life.visits[visit.id] = visit
        # A beat that found nothing to beat for has ended, if this had to wait for long.
        self._life.start()
        if admitted.verdict is not None:
            visit.headers.update(admitted.verdict.headers())
            if admitted.verdict.refused is not None:
                self.metrics.note_refusal(dry_run=True)

    async def knock(self, visit: Visit) -> None:
        """Take a request that will hold no price from the limit of its key. What holds none and did
        not knock is taken when it is closed.

        Raises Problem where the limit is used up.
        """
        try:
            await self._group.do(Knock(visit))
        except Problem as refused:
            visit.headers.update(refused.headers)
            self.metrics.note_refusal(dry_run=False)
            raise
        visit.knocked = True

    @contextmanager
    def claiming(self, claim: Claim) -> Iterator[None]:
        """A claim stays while its work goes on, and until an answer that is owed is written."""
        self._life.claims.add(claim.request_id)
        self._life.start()
        try:
            yield
        finally:
            if not self.owes(claim):
                self._life.claims.discard(claim.request_id)

    def owes(self, claim: Claim) -> bool:
        """Whether an answer is there for whoever asks again, and waits for the store."""
        owed = self._owed.get(claim.request_id)
        return owed is not None and owed.kept is not None

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
            if visit.reserved is not None or not isinstance(error, STORE):
                problem = problems.of(error)
                await self.close(visit, problem.status, problem.code)
            raise

    async def close(
        self,
        visit: Visit,
        status: int = 200,
        error_code: str | None = None,
        kept: Kept | None = None,
    ) -> None:
        """Settle what was used and log the request; `visit` has its latency and cost after it.

        Once is enough: who is cancelled while it is written may close again. What the store would
        not take is settled later, with what was to be kept: whoever asks again hears what was paid.
        An answer that nobody heard of, and nobody can ask for again, costs nothing.
        """
        visit.latency_ms = visit.elapsed_ms()
        owed = self._owed.get(visit.id)
        kept = kept if owed is None else owed.kept
        await self._written(Closing(visit, status, error_code, kept, late=owed is not None))

    async def give_up(self, visit: Visit, kept: Kept) -> None:
        """Take back what was held, as if it had never been asked: it comes to nothing, or will be
        done again under the same id. Raises LeaseLost."""
        await self._written(Closing(visit, 0, None, kept, void=True))

    async def _written(self, closing: Closing) -> None:
        """A closing, when it is committed; the one of the same visit that is under way instead."""
        visit = closing.visit
        doing = self._closing.get(visit.id)
        if doing is None:
            doing = self._closing[visit.id] = asyncio.ensure_future(self._write(closing))
            doing.add_done_callback(lambda _: self._closing.pop(visit.id, None))
        await asyncio.shield(doing)

    async def _write(self, closing: Closing) -> None:
        visit, owes = closing.visit, False
        try:
            visit.cost_nano = await self._group.do(closing)
            if not closing.void:
                self.metrics.note(visit, closing.status, closing.error_code)
                if self._spans is not None:
                    self._spans.note(visit, closing.status, closing.error_code)
        except STORE as error:
            # A line of a batch is taken back by its lease, and pays once it is answered.
            ours = visit.reserved is not None and visit.mine is None
            owes = ours and not isinstance(error, StoreRefused)
            unheard = ours and closing.status == 200 and not visit.heard
            if unheard and not (owes and closing.kept):
                visit.forgiven = True
            raise
        finally:
            if owes:
                self._owed[visit.id] = replace(closing, late=True)
                self._life.start()
            else:
                self._owed.pop(visit.id, None)
                self._life.visits.pop(visit.id, None)
                self._life.claims.discard(visit.id)

    async def _pay(self) -> bool:
        """Settle what the store would not take before; whether something is owed still."""
        for closing in list(self._owed.values()):
            with suppress(*STORE):
                await self._written(closing)
        return bool(self._owed)

    async def settled(self) -> None:
        """Wait until everything that was asked for is written."""
        await self._group.settled()
        await self._pay()
        self._life.stop()
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close)

    def _do(self, connection: Connection, items: Sequence[Item]) -> Sequence[Any]:
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
        # Lines of batches are locked in the order that their beat has.
        ordered = sorted(items, key=lambda item: item.visit.id)
        lost = {id(item) for item in ordered if item.visit.mine and not item.visit.mine(connection)}
        done.update((place, LeaseLost()) for place in lost)
        closings = [closing for closing in closings if id(closing) not in lost]
        # What is freed first may be reserved at once.
        for closing in closings:
            _forgive(connection, closing)
            try:
                done[id(closing)] = self._close(till, meters, closing)
            except Problem as refused:
                done[id(closing)] = refused
        closings = [closing for closing in closings if isinstance(done[id(closing)], int)]
        for knock in (item for item in items if isinstance(item, Knock)):
            try:
                _counted(meters, knock.visit)
                done[id(knock)] = None
            except Problem as refused:
                done[id(knock)] = refused
        for opening in openings:
            if id(opening) in lost:
                continue
            key, price = known.get(opening.visit.key.id), prices.get(opening.version)
            try:
                done[id(opening)] = self._reserve(till, meters, key, price, opening)
            except (TrimtabError, Problem) as error:
                done[id(opening)] = error
        till.write()
        meters.write()
        entries = [_entry(item, done[id(item)]) for item in closings if not item.void]
        requests.record_all(connection, entries)
        logged = [item.visit for item in closings if item.visit.words and not item.void]
        words.record_all(connection, [spoken.kept(visit, till.now_us) for visit in logged])
        kept = [closing.kept for closing in closings if closing.kept is not None]
        for each in sorted(kept, key=lambda each: each.locks):
            each.keep(connection)
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
            floor=price.least(item.prompt),
            # The hold of a batch's line belongs to the line, and outlives who works it.
            expires_us=NEVER_US if visit.mine else till.now_us + LIFE_US,
            owner=self.owner,
            unit=price.completion_nano,
            units=item.completion,
            least=item.least,
        )
        if before is not None:
            hold, units = till.exchange(before.hold.id, wanted)
            return Admitted(Reserved(hold, price, units, before.metered), None)
        verdict = meters.ask(key, tokens)
        if verdict.enforced:
            raise _limited(verdict, tokens)
        hold, units = till.reserve(wanted)
        meters.take(key, verdict)
        return Admitted(Reserved(hold, price, units, tokens), verdict)

    def _close(self, till: Till, meters: Meters, item: Closing) -> int:
        visit, reserved = item.visit, item.visit.reserved
        if reserved is None:
            uncounted = item.void or item.error_code in _UNCOUNTED
            if not (uncounted or visit.mine or visit.knocked):
                _counted(meters, visit)
            return 0
        if item.void:
            till.void(reserved.hold.id)
            meters.give_back(visit.key, reserved.metered)
            return 0
        usage = visit.usage
        price = reserved.price
        used = price.of(usage.prompt, usage.completion, usage.cached)
        # Whatever an engine counts, nobody pays more than was held, or is paid.
        amount = 0 if visit.forgiven else max(0, min(used, reserved.hold.amount_nano))
        hold = till.settle(reserved.hold.id, amount, "batch" if visit.mine else "request")
        meters.give_back(visit.key, reserved.metered - usage.prompt - usage.completion)
        # The answer that is kept for a replay names it.
        visit.cost_nano = hold.settled_nano or 0
        return visit.cost_nano


def _counted(meters: Meters, visit: Visit) -> None:
    """Raises Problem where the limit of requests is used up."""
    verdict = meters.ask(visit.key, 0)
    visit.headers.update(verdict.headers())
    if verdict.enforced:
        raise _limited(verdict, 0)
    meters.take(visit.key, verdict)


def _forgive(connection: Connection, closing: Closing) -> None:
    """Ask nothing for an answer that came so late that its claim is another's by now."""
    kept, visit = closing.kept, closing.visit
    if closing.late and isinstance(kept, Replay) and not replays.holds(connection, kept.claim):
        visit.forgiven |= not visit.heard


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
