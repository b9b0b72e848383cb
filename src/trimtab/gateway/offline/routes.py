"""`/v1/batches`: accept, list, show and cancel batches, in OpenAI's shape."""

import json
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response

from trimtab.gateway import replays
from trimtab.gateway.bodies import PRINTABLE
from trimtab.gateway.desk import AtDesk
from trimtab.gateway.keys import Key
from trimtab.gateway.offline import batches, files
from trimtab.gateway.offline.batches import Batch
from trimtab.gateway.offline.bodies import BatchBody, BatchList, BatchOut, Counts, Waiting
from trimtab.gateway.offline.endpoints import ENDPOINTS
from trimtab.gateway.problems import Problem
from trimtab.gateway.replaying import REPLAYED
from trimtab.gateway.replays import Claim, Replay
from trimtab.store.database import Connection

router = APIRouter()
BatchId = Annotated[str, Path(max_length=64, pattern=PRINTABLE)]


@router.post("/v1/batches", response_model=BatchOut)
async def create(
    body: BatchBody,
    request: Request,
    desk: AtDesk,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response | BatchOut:
    """Work a file of requests through, at a lower priority than anything that somebody waits for.

    With an Idempotency-Key, the same body makes one batch however often it comes.
    """
    key: Key = request.state.key
    scope = ENDPOINTS[body.endpoint].scope
    if scope not in key.scopes:
        raise Problem(403, "wrong_scope", f"this key has no scope '{scope}'")
    name = replays.name_of(idempotency_key)
    print_ = replays.fingerprint("batches", await request.body())

    def accepted(connection: Connection) -> BatchOut | str:
        claim = None
        if name is not None:
            claim = Claim(key.id, name, print_, request.state.trace_id, desk.books.owner)
            if (known := replays.claim(connection, claim)) is not None:
                return known
        file = files.locked(connection, key, body.input_file_id)
        made = shown(
            batches.create(connection, key, file, body.endpoint, body.window_s, body.metadata)
        )
        if claim is not None:
            Replay(claim, made.model_dump_json).keep(connection)
        return made

    answer = await desk.database.write(accepted, durable=True)
    request.app.state.worker.wake()
    if isinstance(answer, str):
        request.state.headers[REPLAYED] = "true"
        return Response(answer, media_type="application/json")
    return answer


@router.get("/v1/batches")
async def list_batches(
    request: Request,
    desk: AtDesk,
    after: Annotated[str | None, Query(max_length=64, pattern=PRINTABLE)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> BatchList:
    """The batches of the key's owner, the newest first."""
    key: Key = request.state.key

    def rows(connection: Connection) -> list[Batch]:
        last = None if after is None else batches.get(connection, key, after)
        return [*batches.list(connection, key, last, limit + 1)]

    found = await desk.database.read(rows)
    data = [shown(batch) for batch in found[:limit]]
    return BatchList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=len(found) > limit,
    )


@router.get("/v1/batches/{batch_id}")
async def one_batch(batch_id: BatchId, request: Request, desk: AtDesk) -> BatchOut:
    """How a batch stands."""
    key: Key = request.state.key
    return shown(await desk.database.read(lambda c: batches.get(c, key, batch_id)))


@router.post("/v1/batches/{batch_id}/cancel")
async def cancel(batch_id: BatchId, request: Request, desk: AtDesk) -> BatchOut:
    """Begin no more of its lines; those under way end, and what was answered is kept."""
    key: Key = request.state.key
    return shown(await desk.database.write(lambda c: batches.cancel(c, key, batch_id)))


def shown(batch: Batch) -> BatchOut:
    """A batch on the wire."""

    def ended(status: str) -> int | None:
        return _s(batch.ended_us) if batch.status == status else None

    return BatchOut(
        id=batch.id,
        endpoint=batch.endpoint,
        input_file_id=batch.input_file,
        completion_window=f"{batch.window_s // 3600}h",
        status=batch.status,
        output_file_id=batch.output_file,
        error_file_id=batch.error_file,
        created_at=batch.created_us // 1_000_000,
        in_progress_at=batch.created_us // 1_000_000,
        expires_at=batch.expires_us // 1_000_000,
        finalizing_at=_s(batch.finalizing_us),
        completed_at=ended("completed"),
        expired_at=ended("expired"),
        cancelling_at=_s(batch.cancelling_us),
        cancelled_at=ended("cancelled"),
        request_counts=Counts(total=batch.total, completed=batch.answered, failed=batch.failed),
        metadata=None if batch.details is None else json.loads(batch.details),
        trimtab=Waiting(
            waits_for=batch.waits_for,
            not_before=_s(batch.not_before_us) if batch.waits_for else None,
        ),
    )


def _s(us: int | None) -> int | None:
    return None if us is None else us // 1_000_000
