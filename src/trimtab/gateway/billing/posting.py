"""One transaction of the books: what many requests hold, settle and log together.

Budgets, holds and meters are locked and read once for all of them, changed in memory, and written
once. What one item hears (a budget that does not cover it, a limit that is used up) costs the
others nothing. Knows no event loop.
"""

from collections.abc import Sequence
from typing import Any

from trimtab.errors import TrimtabError
from trimtab.gateway import keys, replays
from trimtab.gateway.billing.entries import Admitted, Closing, Item, Knock, Opening
from trimtab.gateway.billing.heartbeat import LIFE_US
from trimtab.gateway.billing.limits import Meters, Verdict
from trimtab.gateway.problems import LeaseLost, Problem
from trimtab.gateway.replays import Replay
from trimtab.gateway.visit import Reserved, Visit
from trimtab.journal import requests, words
from trimtab.ledger.prices import no_price, prices_of
from trimtab.ledger.reservation import NEVER_US, Wanted
from trimtab.ledger.till import Till
from trimtab.store.database import Connection

# What says that a limit or a budget stands in the way takes nothing from it, as elsewhere; and who
# leaves is told nothing.
_UNCOUNTED = frozenset({"rate_limited", "budget_exceeded", "client_gone", "stopping"})


def post(owner: str, connection: Connection, items: Sequence[Item]) -> Sequence[Any]:
    """Each item's result, or the error that it has: Admitted of an opening, the cost of a closing.
    `owner` is the gateway that holds are made for."""
    return _Posting(owner, connection, items).posted()


class _Posting:
    def __init__(self, owner: str, connection: Connection, items: Sequence[Item]) -> None:
        self._owner = owner
        self._connection = connection
        self._items = items
        openings = [item for item in items if isinstance(item, Opening)]
        held = [item.visit.reserved.hold for item in items if item.visit.reserved is not None]
        accounts = {name for opening in openings for name in opening.accounts}
        accounts |= {account for hold in held for account, _ in hold.charged}
        self._till = Till(connection, accounts, [hold.id for hold in held])
        now_us = self._till.now_us
        known = {opening.visit.key.id for opening in openings}
        self._keys = keys.of_ids(connection, known)
        self._prices = prices_of(connection, {opening.version for opening in openings}, now_us)
        self._meters = Meters(connection, [item.visit.key for item in items], now_us)

    def posted(self) -> Sequence[Any]:
        done: dict[int, Any] = {}
        # Lines of batches are locked in the order that their beat has.
        for item in sorted(self._items, key=lambda item: item.visit.id):
            if item.visit.mine is not None and not item.visit.mine(self._connection):
                done[id(item)] = LeaseLost()
        # What is freed first may be reserved at once.
        for item in sorted(self._items, key=_turn):
            if id(item) not in done:
                try:
                    done[id(item)] = self._post(item)
                except (TrimtabError, Problem) as error:
                    done[id(item)] = error
        self._till.write()
        self._meters.write()
        closed = [
            item
            for item in self._items
            if isinstance(item, Closing) and isinstance(done[id(item)], int)
        ]
        entries = [_entry(item, done[id(item)]) for item in closed if not item.void]
        requests.record_all(self._connection, entries)
        spoke = [item.words for item in closed if item.words is not None]
        words.record_all(self._connection, spoke)
        kept = [item.kept for item in closed if item.kept is not None]
        for each in sorted(kept, key=lambda each: each.locks):
            each.keep(self._connection)
        return [done[id(item)] for item in self._items]

    def _post(self, item: Item) -> Admitted | int | None:
        match item:
            case Closing():
                return self._close(item)
            case Knock():
                self._count(item.visit)
                return None
            case Opening():
                return self._reserve(item)

    def _reserve(self, item: Opening) -> Admitted:
        till, meters, visit = self._till, self._meters, item.visit
        key, price = self._keys.get(visit.key.id), self._prices.get(item.version)
        if key is None or not key.opens(till.now_us):
            raise Problem(401, "wrong_key", "this key is unknown, expired or revoked")
        if price is None:
            raise no_price(item.version)
        tokens = item.prompt + item.completion
        wanted = Wanted(
            key_id=key.id,
            request_id=visit.id,
            accounts=item.accounts,
            fixed=price.of(item.prompt, 0),
            floor=price.least(item.prompt),
            # The hold of a batch's line belongs to the line, and outlives who works it.
            expires_us=NEVER_US if visit.mine else till.now_us + LIFE_US,
            owner=self._owner,
            unit=price.completion_nano,
            units=item.completion,
            least=item.least,
        )
        if (before := visit.reserved) is not None:
            hold, units = till.exchange(before.hold.id, wanted)
            return Admitted(Reserved(hold, price, units, before.metered), None)
        verdict = meters.ask(key, tokens)
        if verdict.enforced:
            raise _limited(verdict, tokens)
        hold, units = till.reserve(wanted)
        meters.take(key, verdict)
        return Admitted(Reserved(hold, price, units, tokens), verdict)

    def _close(self, item: Closing) -> int:
        visit, reserved = item.visit, item.visit.reserved
        self._forgive(item)
        if reserved is None:
            uncounted = item.void or item.error_code in _UNCOUNTED
            if not (uncounted or visit.mine or visit.knocked):
                self._count(visit)
            return 0
        if item.void:
            self._till.void(reserved.hold.id)
            self._meters.give_back(visit.key, reserved.metered)
            return 0
        usage, price = visit.usage, reserved.price
        if visit.guessed:
            # Cut off: the engine did not say what of the prompt it remembered. As after a crash.
            used = price.least(usage.prompt, usage.completion)
        else:
            used = price.of(usage.prompt, usage.completion, usage.cached)
        # Whatever an engine counts, nobody pays more than was held, or is paid.
        amount = 0 if visit.forgiven else max(0, min(used, reserved.hold.amount_nano))
        hold = self._till.settle(reserved.hold.id, amount, "batch" if visit.mine else "request")
        unused = reserved.metered - usage.prompt - usage.completion
        self._meters.give_back(visit.key, unused)
        # The answer that is kept for a replay names it.
        visit.cost_nano = hold.settled_nano or 0
        return visit.cost_nano

    def _count(self, visit: Visit) -> None:
        """Raises Problem where the limit of requests is used up."""
        verdict = self._meters.ask(visit.key, 0)
        visit.headers.update(verdict.headers())
        if verdict.enforced:
            raise _limited(verdict, 0)
        self._meters.take(visit.key, verdict)

    def _forgive(self, item: Closing) -> None:
        """Ask nothing for an answer that came so late that its claim is another's by now."""
        kept, visit = item.kept, item.visit
        if not item.late or not isinstance(kept, Replay):
            return
        if not replays.holds(self._connection, kept.claim):
            visit.forgiven |= not visit.heard


def _turn(item: Item) -> int:
    return (Closing, Knock, Opening).index(type(item))


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
