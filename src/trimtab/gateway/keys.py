"""API keys: `tt_<id>_<secret>`, of which the secret is shown once and kept as a hash alone.

A secret is 256 random bits, so a plain SHA-256 of it cannot be searched for. Knows nothing of what
a key may spend: that is its account in the ledger.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from trimtab.errors import NotFound, UserError
from trimtab.gateway.tables import READ_KEYS, keys
from trimtab.ledger.accounts import Period, open_account, set_budget
from trimtab.ledger.money import nano
from trimtab.store.clock import now_us
from trimtab.store.database import Connection

Scope = Literal["generate", "score", "embed", "models", "batches", "metrics"]

SCOPES: tuple[Scope, ...] = ("generate", "score", "embed", "models", "batches", "metrics")
# What a key may do that was not told otherwise. Metrics speak of everybody.
USUAL: tuple[Scope, ...] = ("generate", "score", "embed", "models", "batches")
GRACE_US = 24 * 3600 * 1_000_000

_KEY = re.compile(r"tt_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,64}")


@dataclass(frozen=True, slots=True)
class Created:
    """A new key, or an old one with a new secret. `key` is the whole of it, shown once."""

    id: str
    key: str


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a key may ask for in a minute; None is without a limit. A `dry_run` only tells what
    it would refuse."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key. Times are microseconds since the epoch."""

    id: str
    name: str
    owner: str
    created_us: int
    revoked_us: int | None
    expires_us: int | None = None
    scopes: frozenset[str] = frozenset(USUAL)
    limits: Limits = Limits()

    def opens(self, at_us: int) -> bool:
        """Whether the key is neither revoked nor expired."""
        return self.revoked_us is None and (self.expires_us is None or at_us < self.expires_us)


def create(
    connection: Connection,
    name: str,
    owner: str,
    limit_usd: str | int | Decimal | None = None,
    *,
    period: Period = "total",
    scopes: Iterable[str] = USUAL,
    expires_us: int | None = None,
    limits: Limits | None = None,
) -> Created:
    """Make a key and open its account in the ledger; without `limit_usd` it has no budget.

    Raises UserError for an unfit name, amount, scope or limit.
    """
    for what, value in (("name", name), ("owner", owner)):
        if not _NAME.fullmatch(value):
            raise UserError(
                f"the {what} of a key has 1 to 64 characters and no control characters",
                hint="e.g. trimtab keys create ci",
            )
    wanted = _scopes(scopes)
    limits = limits or Limits()
    for most in (limits.requests_per_minute, limits.tokens_per_minute):
        if most is not None and not 1 <= most <= 1_000_000_000:
            raise UserError(
                f"a limit of {most} a minute cannot be kept", hint="1 to 1000000000, or none"
            )
    key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    prefix = f"tt_{key_id}"
    row = {
        "id": key_id,
        "name": name,
        "prefix": prefix,
        "secret_hash": _hash(secret),
        "owner": owner,
        "scopes": wanted,
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "dry_run": limits.dry_run,
        "created_us": now_us(),
        "expires_us": expires_us,
        "revoked_us": None,
    }
    connection.execute(keys.insert().values(row))
    limit = None if limit_usd is None else nano(limit_usd)
    open_account(connection, key_id, limit if period == "total" else None)
    if period != "total":
        set_budget(connection, "key", key_id, period, limit)
    return Created(key_id, f"{prefix}_{secret}")


def list(connection: Connection) -> Sequence[Key]:
    """Every key, the revoked ones too, the oldest first."""
    rows = connection.execute(keys.select().order_by(keys.c.created_us, keys.c.id))
    return tuple(_key(row) for row in rows)


def get(connection: Connection, key_id: str) -> Key:
    """Raises NotFound."""
    row = connection.execute(keys.select().where(keys.c.id == key_id)).first()
    if row is None:
        raise NotFound(f"no key '{key_id[:80]}'", hint="see their ids: trimtab keys list")
    return _key(row)


def of_ids(connection: Connection, ids: Iterable[str]) -> Mapping[str, Key]:
    """The keys of these ids, as they stand now."""
    rows = READ_KEYS.rows(connection, ids=sorted(set(ids)))
    return {row.id: _key(row) for row in rows}


def rotate(connection: Connection, key_id: str, grace_us: int = GRACE_US) -> Created:
    """A new secret for a key, whose account and limits stay. The one before opens for `grace_us`
    microseconds more, the one before that no longer. Raises NotFound, and UserError where the key
    is revoked."""
    found = connection.execute(keys.select().where(keys.c.id == key_id)).first()
    key = get(connection, key_id)
    if key.revoked_us is not None:
        raise UserError(f"key {key.id} is revoked for good", hint="make one: trimtab keys create")
    assert found is not None
    secret = secrets.token_urlsafe(32)
    values = {
        "secret_hash": _hash(secret),
        "previous_hash": found.secret_hash,
        "previous_until_us": now_us() + grace_us,
    }
    connection.execute(keys.update().where(keys.c.id == key_id).values(values))
    return Created(key_id, f"{found.prefix}_{secret}")


def revoke(connection: Connection, key_id: str) -> Key:
    """Shut a key for good, from the next request on; its account stays. Raises NotFound."""
    here = keys.c.id == key_id
    connection.execute(
        keys.update().where(here & keys.c.revoked_us.is_(None)).values(revoked_us=now_us())
    )
    return get(connection, key_id)


def authenticate(connection: Connection, presented: str) -> Key | None:
    """Whose key this is; None where it is unknown, revoked, expired, or no key at all."""
    match = _KEY.fullmatch(presented)
    if match is None:
        return None
    key_id, secret = match.groups()
    row = connection.execute(keys.select().where(keys.c.id == key_id)).first()
    # An unknown id and an ended grace cost the same comparisons as a wrong secret.
    now, shown, nobody = now_us(), _hash(secret), _hash("")
    current = hmac.compare_digest(shown, row.secret_hash if row is not None else nobody)
    before = row.previous_hash if row is not None and now < (row.previous_until_us or 0) else None
    previous = hmac.compare_digest(shown, before or nobody)
    if row is None or not (current or previous):
        return None
    key = _key(row)
    return key if key.opens(now) else None


def _scopes(wanted: Iterable[str]) -> str:
    chosen = sorted(set(wanted))
    unknown = [scope for scope in chosen if scope not in SCOPES]
    if unknown or not chosen:
        raise UserError(
            f"no scope '{unknown[0]}'" if unknown else "a key without a scope opens nothing",
            hint=f"known: {', '.join(SCOPES)}",
        )
    return " ".join(chosen)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(row: Any) -> Key:
    return Key(
        row.id,
        row.name,
        row.owner,
        row.created_us,
        row.revoked_us,
        row.expires_us,
        frozenset(row.scopes.split()),
        Limits(row.requests_per_minute, row.tokens_per_minute, row.dry_run),
    )
