"""What the ledger and the journal hear of a request: a hold before work, one settlement after it.

The cost in the answer, in the log and in the ledger is one integer, written in one transaction.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from trimtab.errors import StorageFull, StoreError
from trimtab.gateway import problems
from trimtab.gateway.off_loop import OffLoop
from trimtab.gateway.problems import ClientGone
from trimtab.gateway.visit import Reserved, Visit
from trimtab.journal import requests
from trimtab.ledger import holds
from trimtab.ledger.accounts import locked_account
from trimtab.ledger.money import Price
from trimtab.ledger.prices import price_of
from trimtab.store.clock import now_us
from trimtab.store.database import Connection

# Past any work's deadline: only a crash leaves a hold to expire.
HOLD_US = 900 * 1_000_000


class Books:
    """One for a gateway. Every method is one transaction."""

    def __init__(self, database: OffLoop) -> None:
        self._database = database
        self._owner = f"gateway {os.getpid()}"

    async def reserve(self, visit: Visit, prompt: int, completion: int, least: int) -> None:
        """Hold the price of `prompt` and `completion` tokens, or of as many tokens of completion
        as the key can still pay for. Raises BudgetExceeded for fewer than `least`."""

        def work(connection: Connection) -> Reserved:
            assert visit.served is not None
            price = price_of(connection, visit.served.version.hash)
            left = locked_account(connection, visit.key).left_nano
            covered = max(least, _covered(price, prompt, completion, left))
            hold = holds.reserve(
                connection,
                visit.key,
                visit.id,
                amount=price.of(prompt, covered),
                floor=price.of(prompt, 0),
                expires_us=now_us() + HOLD_US,
                owner=self._owner,
            )
            return Reserved(hold, price, covered)

        visit.reserved = await self._database.write(work)

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

    async def close(self, visit: Visit, status: int = 200, error_code: str | None = None) -> None:
        """Settle what was used and log the request; `visit` has its latency and cost after it."""
        visit.latency_ms = visit.elapsed_ms()

        def work(connection: Connection) -> int:
            cost = _settled(connection, visit.reserved, visit)
            requests.record(connection, _entry(visit, status, error_code, cost))
            return cost

        visit.cost_nano = await self._database.write(work)


def _covered(price: Price, prompt: int, completion: int, left: int | None) -> int:
    """How many tokens of completion are paid for by what is left, at most `completion`."""
    if left is None or price.completion_nano == 0:
        return completion
    return min(completion, (left - price.of(prompt, 0)) // price.completion_nano)


def _settled(connection: Connection, reserved: Reserved | None, visit: Visit) -> int:
    if reserved is None:
        return 0
    used = reserved.price.of(visit.usage.prompt, visit.usage.completion)
    # Whatever an engine counts, nobody pays more than was held.
    settled = holds.settle(connection, reserved.hold.id, min(used, reserved.hold.amount_nano))
    return settled.settled_nano or 0


def _entry(visit: Visit, status: int, error_code: str | None, cost: int) -> requests.Answered:
    served, runtime, usage = visit.served, visit.runtime, visit.usage
    return requests.Answered(
        id=visit.id,
        trace_id=visit.trace_id,
        route=visit.route,
        status=status,
        latency_ms=visit.latency_ms,
        session_id=visit.session_id,
        user_id=visit.user_id,
        key_id=visit.key,
        deployment=served.deployment if served else None,
        model_version=served.version.hash if served else None,
        runtime=runtime.name if runtime else None,
        tier=served.tier if served else None,
        finish_reason=visit.finish_reason,
        prompt_tokens=usage.prompt,
        completion_tokens=usage.completion,
        cached_tokens=usage.cached,
        ttft_ms=visit.ttft_ms,
        cost_nano=cost,
        error_code=error_code,
    )
