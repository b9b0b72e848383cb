"""The till: reservations and settlements of one transaction, over budgets that are locked together.

Budgets are read once, in an order that is the same for everybody (so that two tills never wait for
each other), changed in memory, and written once. A till that is not written has changed nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from trimtab.errors import BudgetExceeded, HoldClosed, LedgerError
from trimtab.ledger import reservation
from trimtab.ledger.accounts import Budget, budgets_of, no_account, write_budgets
from trimtab.ledger.money import show
from trimtab.ledger.reservation import Hold, Wanted
from trimtab.ledger.tables import DELETE_HOLDS, PUT_HOLDS, SPEND, database_now
from trimtab.store.database import Connection
from trimtab.store.ids import new_id


class Till:
    """`accounts` are all that anything below touches; `open_holds` the ids of holds to close."""

    def __init__(
        self, connection: Connection, accounts: Iterable[str], open_holds: Iterable[str] = ()
    ) -> None:
        self.now_us = database_now(connection)
        self._connection = connection
        self._budgets: dict[str, list[Budget]] = {}
        for budget in budgets_of(connection, accounts, lock=True):
            budget.roll(self.now_us)
            self._budgets.setdefault(budget.account, []).append(budget)
        # Locked after the budgets, as by everybody; a beat locks holds alone.
        found = reservation.of_ids(connection, open_holds, lock=True)
        self._holds = {hold.id: hold for hold in found}
        self._new: dict[str, Hold] = {}
        self._changed: set[str] = set()
        self._voided: list[str] = []
        self._spends: list[dict[str, object]] = []

    def left(self, accounts: Iterable[str]) -> int | None:
        """What all budgets of these accounts still cover; None where none has a limit."""
        found = [budget.left_nano for budget in self._of(accounts)]
        return min((left for left in found if left is not None), default=None)

    def reserve(self, wanted: Wanted) -> tuple[Hold, int]:
        """Set an amount aside; the hold, and how many of the wanted units it covers.

        Raises BudgetExceeded, naming the budget that does not cover the least.
        """
        if not 0 <= wanted.floor <= wanted.fixed:
            raise LedgerError(f"request {wanted.request_id}: a floor above the amount, or below 0")
        if not self._budgets.get(wanted.accounts[0]):
            raise no_account(wanted.key_id)
        budgets = self._of(wanted.accounts)
        units = self._covered(wanted, budgets)
        amount = wanted.fixed + wanted.unit * units
        for budget in budgets:
            budget.held_nano += amount
        hold = Hold(
            id=wanted.id,
            key_id=wanted.key_id,
            request_id=wanted.request_id,
            amount_nano=amount,
            floor_nano=wanted.floor,
            state="open",
            settled_nano=None,
            estimated=False,
            created_us=self.now_us,
            expires_us=wanted.expires_us,
            owner=wanted.owner,
            charged=tuple((budget.account, budget.period) for budget in budgets),
        )
        self._holds[hold.id] = self._new[hold.id] = hold
        return hold, units

    def exchange(self, hold_id: str, wanted: Wanted) -> tuple[Hold, int]:
        """Another reservation in place of an open one, for the same request.

        Raises BudgetExceeded where the budgets do not cover it; the hold is then as before. Raises
        HoldClosed for one that expired meanwhile: its floor was spent.
        """
        old = self._find(hold_id)
        if old.state != "open":
            raise HoldClosed(f"hold {hold_id} is closed", hint="send the request again")
        budgets = self._charged(old)
        for budget in budgets:
            budget.held_nano -= old.amount_nano
        try:
            units = self._covered(wanted, budgets)
        finally:
            for budget in budgets:
                budget.held_nano += old.amount_nano
        amount = wanted.fixed + wanted.unit * units
        for budget in budgets:
            budget.held_nano += amount - old.amount_nano
        return self._put(replace(old, amount_nano=amount, floor_nano=wanted.floor)), units

    def settle(self, hold_id: str, amount: int, kind: str = "request") -> Hold:
        """Spend `amount` of a hold and free the rest; a hold that is closed stays as it is.

        Raises LedgerError for more than was held: a caller clamps its work to the hold.
        """
        hold = self._find(hold_id)
        if not 0 <= amount <= hold.amount_nano:
            raise LedgerError(
                f"hold {hold_id}: {amount} of {hold.amount_nano} nano-dollars cannot be settled"
            )
        return self._close(hold, "settled", amount, False, kind)

    def expire(self, hold_id: str) -> Hold:
        """Close a hold that a crash left, at its floor, marked estimated."""
        hold = self._find(hold_id)
        return self._close(hold, "expired", hold.floor_nano, True, "recovered")

    def void(self, hold_id: str) -> None:
        """Take an open hold back as if it had never been made: nothing was spent, and its work
        will be asked for again under the same request. A hold that is closed stays as it is."""
        hold = self._find(hold_id)
        if hold.state != "open":
            return
        for budget in self._charged(hold):
            budget.held_nano -= hold.amount_nano
        del self._holds[hold_id]
        self._changed.discard(hold_id)
        if self._new.pop(hold_id, None) is None:
            self._voided.append(hold_id)

    def is_as(self, seen: Hold) -> bool:
        """Whether a hold is open still, and nobody has extended it since it was `seen`."""
        hold = self._holds.get(seen.id)
        return hold is not None and hold.state == "open" and hold.expires_us == seen.expires_us

    def write(self) -> None:
        """Everything above: of each table, as many rows in one statement as a `Put` takes."""
        budgets = [budget for found in self._budgets.values() for budget in found]
        write_budgets(self._connection, budgets)
        DELETE_HOLDS.run(self._connection, [{"at_id": hold} for hold in self._voided])
        touched = sorted(self._changed | self._new.keys())
        rows = [reservation.to_row(self._holds[hold_id]) for hold_id in touched]
        PUT_HOLDS.run(self._connection, rows)
        SPEND.run(self._connection, self._spends)
        self._new, self._changed, self._voided, self._spends = {}, set(), [], []

    def _covered(self, wanted: Wanted, budgets: Sequence[Budget]) -> int:
        units = wanted.units
        for budget in budgets:
            left = budget.left_nano
            if left is None:
                continue
            if wanted.unit:
                units = min(units, (left - wanted.fixed) // wanted.unit)
            if wanted.fixed + wanted.unit * wanted.least > left or units < wanted.least:
                raise _exceeded(budget, wanted.fixed + wanted.unit * wanted.least, left)
        return units

    def _close(
        self,
        hold: Hold,
        state: Literal["settled", "expired"],
        amount: int,
        estimated: bool,
        kind: str,
    ) -> Hold:
        if hold.state != "open":
            return hold
        for budget in self._charged(hold):
            budget.held_nano -= hold.amount_nano
            budget.spent_nano += amount
            budget.warn()
        self._spends.append(
            {
                "id": new_id(),
                "key_id": hold.key_id,
                "request_id": hold.request_id,
                "amount_nano": amount,
                "kind": kind,
                "created_us": self.now_us,
            }
        )
        return self._put(replace(hold, state=state, settled_nano=amount, estimated=estimated))

    def _put(self, hold: Hold) -> Hold:
        self._holds[hold.id] = hold
        self._changed.add(hold.id)
        if hold.id in self._new:
            self._new[hold.id] = hold
        return hold

    def _find(self, hold_id: str) -> Hold:
        if hold_id not in self._holds:
            raise LedgerError(f"no hold {hold_id}")
        return self._holds[hold_id]

    def _of(self, accounts: Iterable[str]) -> list[Budget]:
        return [budget for account in accounts for budget in self._budgets.get(account, ())]

    def _charged(self, hold: Hold) -> list[Budget]:
        """The budgets that a hold counts in; one that was set after it does not know of it."""
        return [b for b in self._of(sorted(hold.accounts)) if (b.account, b.period) in hold.charged]


def _exceeded(budget: Budget, needed: int, left: int) -> BudgetExceeded:
    level = budget.account.replace(":", " ", 1)
    period = "in total" if budget.period == "total" else f"this {budget.period}"
    return BudgetExceeded(
        f"{level}: {show(needed)} are needed and {show(left)} are left {period}",
        hint="ask for fewer tokens, or for a higher budget",
    )
