"""API keys: `tt_<id>_<secret>`, of which the secret is shown once and kept as a hash alone.

A secret is 256 random bits, so a plain SHA-256 of it cannot be searched for. Knows nothing of what
a key may spend: that is its account in the ledger.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from trimtab.errors import NotFound, UserError
from trimtab.gateway.tables import keys
from trimtab.ledger.accounts import open_account
from trimtab.ledger.money import nano
from trimtab.store.clock import now_us
from trimtab.store.database import Connection

_KEY = re.compile(r"tt_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,64}")


@dataclass(frozen=True, slots=True)
class Created:
    """A new key. `key` is the whole of it and cannot be had again."""

    id: str
    key: str


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key. Times are microseconds since the epoch."""

    id: str
    name: str
    owner: str
    created_us: int
    revoked_us: int | None


def create(
    connection: Connection, name: str, owner: str, limit_usd: str | int | Decimal | None = None
) -> Created:
    """Make a key and open its account in the ledger; without `limit_usd` it has no limit.

    Raises UserError for an unfit name or amount.
    """
    for what, value in (("name", name), ("owner", owner)):
        if not _NAME.fullmatch(value):
            raise UserError(
                f"the {what} of a key has 1 to 64 characters and no control characters",
                hint="e.g. trimtab keys create ci",
            )
    key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    prefix = f"tt_{key_id}"
    row = {
        "id": key_id,
        "name": name,
        "prefix": prefix,
        "secret_hash": _hash(secret),
        "owner": owner,
        "created_us": now_us(),
        "revoked_us": None,
    }
    connection.execute(keys.insert().values(row))
    open_account(connection, key_id, None if limit_usd is None else nano(limit_usd))
    return Created(key_id, f"{prefix}_{secret}")


def list(connection: Connection) -> Sequence[Key]:
    """Every key, the revoked ones too, the oldest first."""
    rows = connection.execute(keys.select().order_by(keys.c.created_us, keys.c.id))
    return tuple(_key(row) for row in rows)


def revoke(connection: Connection, key_id: str) -> Key:
    """Shut a key for good, from the next request on; its account stays. Raises NotFound."""
    here = keys.c.id == key_id
    connection.execute(
        keys.update().where(here & keys.c.revoked_us.is_(None)).values(revoked_us=now_us())
    )
    row = connection.execute(keys.select().where(here)).first()
    if row is None:
        raise NotFound(f"no key '{key_id[:80]}'", hint="see their ids: trimtab keys list")
    return _key(row)


def authenticate(connection: Connection, presented: str) -> Key | None:
    """Whose key this is; None where it is unknown, revoked, or no key at all."""
    match = _KEY.fullmatch(presented)
    if match is None:
        return None
    key_id, secret = match.groups()
    row = connection.execute(keys.select().where(keys.c.id == key_id)).first()
    # An unknown id costs the same comparison as a wrong secret.
    expected = row.secret_hash if row is not None else _hash("")
    same = hmac.compare_digest(_hash(secret), expected)
    if row is None or not same or row.revoked_us is not None:
        return None
    return _key(row)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(row: Any) -> Key:
    return Key(row.id, row.name, row.owner, row.created_us, row.revoked_us)
