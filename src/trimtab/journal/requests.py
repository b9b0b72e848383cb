"""The request log: who asked, who answered, how long it took, what it cost. Never the words."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter

from trimtab.errors import NotFound
from trimtab.journal.tables import COUNT_ANSWERS, COUNT_CHARGED, RECORD, SUM_COST, requests
from trimtab.store.clock import now_us
from trimtab.store.database import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One answered request. `latency_ms` is admission to last byte, `ttft_ms` to the first token;
    `attempts` counts how often an engine was asked.

    A refused request has an `error_code` and no `model_version` where none was chosen yet.
    """

    id: str
    trace_id: str
    route: str
    status: int
    latency_ms: float
    session_id: str | None = None
    user_id: str | None = None
    key_id: str | None = None
    deployment: str | None = None
    asked_version: str | None = None
    model_version: str | None = None
    runtime: str | None = None
    tier: str | None = None
    degraded: bool = False
    degraded_reason: str | None = None
    attempts: int = 1
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    ttft_ms: float | None = None
    cost_nano: int = 0
    error_code: str | None = None
    created_us: int = field(default_factory=now_us)


_FIELDS = tuple(each.name for each in fields(Answered))
_values = attrgetter(*_FIELDS)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an SLO is made of."""

    status: int
    degraded: bool
    latency_ms: float
    created_us: int


def record_all(connection: Connection, answered: Sequence[Answered]) -> None:
    """Log requests that were never logged before, as many in one statement as a `Put` takes."""
    RECORD.run(connection, [dict(zip(_FIELDS, _values(each), strict=True)) for each in answered])


def get(connection: Connection, request_id: str) -> Answered:
    """Raises NotFound."""
    row = connection.execute(requests.select().where(requests.c.id == request_id)).first()
    if row is None:
        raise NotFound(f"no request {request_id[:80]}", hint="its id is in every answer")
    return Answered(**row._mapping)


def recent(connection: Connection, limit: int) -> Sequence[Answered]:
    """The last requests, the newest first."""
    query = requests.select().order_by(requests.c.created_us.desc(), requests.c.id).limit(limit)
    return tuple(Answered(**row._mapping) for row in connection.execute(query))


def outcomes(
    connection: Connection,
    *,
    deployment: str | None = None,
    version: str | None = None,
    since_us: int = 0,
) -> Sequence[Outcome]:
    """How the requests to a deployment or a version went, the oldest first; lines of batches, which
    nobody waits for, are not among them."""
    columns = requests.c
    query = requests.select().with_only_columns(
        columns.status, columns.degraded, columns.latency_ms, columns.created_us
    )
    query = query.where((columns.created_us >= since_us) & columns.route.not_like("batch.%"))
    if deployment is not None:
        query = query.where(columns.deployment == deployment)
    if version is not None:
        query = query.where(columns.model_version == version)
    rows = connection.execute(query.order_by(columns.created_us, columns.id))
    return tuple(Outcome(**row._mapping) for row in rows)


def charged_since(connection: Connection, version: str, since_us: int) -> int:
    """How many requests have paid for a version's tokens, whatever they cost, since a time."""
    asked = {"version": version, "since_us": since_us}
    return int(connection.execute(COUNT_CHARGED, asked).scalar_one())


def cost_of(connection: Connection, deployment: str) -> int:
    """What the requests to a deployment have cost, in nano-dollars."""
    return int(connection.execute(SUM_COST, {"deployment": deployment}).scalar_one())


def answers_of(connection: Connection, version: str) -> int:
    """How many requests a version has answered: the last link of its lineage."""
    return int(connection.execute(COUNT_ANSWERS, {"version": version}).scalar_one())
