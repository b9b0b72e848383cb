"""What the ledger, the limits and the journal hear of a request: a hold before work, one settlement
after it.

The cost in the answer, in the log and in the ledger is one integer, written in one transaction.
Many requests share a transaction: see `group` and `posting`.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from trimtab.errors import StoreRefused
from trimtab.gateway import problems
from trimtab.gateway.billing.entries import Admitted, Closing, Item, Kept, Knock, Opening
from trimtab.gateway.billing.group import STORE, GroupCommit
from trimtab.gateway.billing.heartbeat import Heartbeat
from trimtab.gateway.billing.posting import post
from trimtab.gateway.problems import ClientGone, Problem
from trimtab.gateway.replays import Claim
from trimtab.gateway.telemetry import spoken
from trimtab.gateway.telemetry.metrics import Metrics
from trimtab.gateway.visit import Visit
from trimtab.ledger.accounts import account_of
from trimtab.store.database import Database

if TYPE_CHECKING:
    from trimtab.gateway.telemetry.spans import Spans


class Books:
    """One for a gateway. What is written down is told to `spans` as well."""

    def __init__(self, database: Database, spans: "Spans | None" = None) -> None:
        self.owner = f"gateway {os.getpid()}-{secrets.token_hex(4)}"
        self.metrics = Metrics(str(os.getpid()))
        self._spans = spans
        self._group: GroupCommit[Item] = GroupCommit(database, partial(post, self.owner))
        self._life = Heartbeat(database, self._pay)
        self._owed: dict[str, Closing] = {}
        self._closing: dict[str, asyncio.Future[int]] = {}

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
        doing = self._group.ask(opening)
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
            await asyncio.shield(self._group.ask(Knock(visit)))
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
        visit.latency_ms, visit.ended = visit.elapsed_ms(), True
        owed = self._owed.get(visit.id)
        kept = kept if owed is None else owed.kept
        # Masked here: the transaction keeps the database from everybody else.
        words = spoken.kept(visit)
        late = owed is not None
        await self._written(Closing(visit, status, error_code, kept, late=late, words=words))

    async def give_up(self, visit: Visit, kept: Kept) -> None:
        """Take back what was held, as if it had never been asked: it comes to nothing, or will be
        done again under the same id. Raises LeaseLost."""
        await self._written(Closing(visit, 0, None, kept, void=True))

    async def _written(self, closing: Closing) -> None:
        """A closing, when it is committed; the one of the same visit that is under way instead."""
        visit = closing.visit
        doing = self._closing.get(visit.id)
        if doing is None:
            doing = self._closing[visit.id] = self._group.ask(closing)
            # Before whoever waits for it hears of its end, and though nobody does any more.
            doing.add_done_callback(partial(self._ended, closing))
        await asyncio.shield(doing)

    def _ended(self, closing: Closing, done: asyncio.Future[int]) -> None:
        visit, owes = closing.visit, False
        del self._closing[visit.id]
        error = done.exception()
        if error is None:
            visit.cost_nano = done.result()
            if not closing.void:
                self.metrics.note(visit, closing.status, closing.error_code)
                if self._spans is not None:
                    self._spans.note(visit, closing.status, closing.error_code)
        elif isinstance(error, STORE):
            # A line of a batch is taken back by its lease, and pays once it is answered.
            ours = visit.reserved is not None and visit.mine is None
            owes = ours and not isinstance(error, StoreRefused)
            unheard = ours and closing.status == 200 and not visit.heard
            if unheard and not (owes and closing.kept):
                visit.forgiven = True
        else:
            # It is neither settled nor logged: the door tells of it.
            visit.ended = False
            if isinstance(error, Problem) and error.code == "rate_limited":
                self.metrics.note_refusal(dry_run=False)
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
