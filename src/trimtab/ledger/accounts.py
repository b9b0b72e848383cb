"""Accounts: what a key may spend, has spent, and holds for work under way."""

from dataclasses import dataclass
from typing import Any

from trimtab.errors import LedgerError
from trimtab.ledger.tables import accounts
from trimtab.store.database import Connection
from trimtab.store.rows import insert_once


@dataclass(frozen=True, slots=True)
class Account:
    """In nano-dollars; without a limit, `limit_nano` is None."""

    key_id: str
    limit_nano: int | None
    spent_nano: int
    held_nano: int

    @property
    def left_nano(self) -> int | None:
        """What can still be reserved; None without a limit."""
        if self.limit_nano is None:
            return None
        return self.limit_nano - self.spent_nano - self.held_nano


def open_account(connection: Connection, key_id: str, limit_nano: int | None) -> Account:
    """Open a key's account; one that is open is left as it is."""
    row = {"key_id": key_id, "limit_nano": limit_nano, "spent_nano": 0, "held_nano": 0}
    insert_once(connection, accounts, row)
    return account(connection, key_id)


def account(connection: Connection, key_id: str) -> Account:
    """Raises LedgerError for a key without an account."""
    return _account(connection, accounts.select().where(accounts.c.key_id == key_id), key_id)


def locked_account(connection: Connection, key_id: str) -> Account:
    """The account, which nobody else can change until the transaction ends."""
    query = accounts.select().where(accounts.c.key_id == key_id).with_for_update()
    return _account(connection, query, key_id)


def _account(connection: Connection, query: Any, key_id: str) -> Account:
    row = connection.execute(query).first()
    if row is None:
        raise LedgerError(f"key {key_id} has no account", hint="make one: trimtab keys create NAME")
    return Account(**row._mapping)
