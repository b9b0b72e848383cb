"""`/v1/files`: upload, list, read and delete the files of an owner.

A file is named by the id that the upload gave it; nothing in a request is ever a path or a URL.
"""

import re
from typing import Annotated, BinaryIO, Literal

import anyio.to_thread
from fastapi import APIRouter, Form, Path, Query, Request, UploadFile
from starlette.responses import StreamingResponse

from trimtab.errors import TrimtabError
from trimtab.gateway.bodies import PRINTABLE
from trimtab.gateway.desk import AtDesk, Desk
from trimtab.gateway.keys import Key
from trimtab.gateway.offline import files
from trimtab.gateway.offline.bodies import FileBody, FileDeleted, FileList
from trimtab.gateway.offline.files import File
from trimtab.gateway.offline.requests import Checked
from trimtab.gateway.problems import Problem
from trimtab.ledger.tables import database_now
from trimtab.store.database import Connection

HOUR_S, MONTH_S = 3600, 30 * 24 * 3600

router = APIRouter()
FileId = Annotated[str, Path(max_length=64, pattern=PRINTABLE)]


@router.post("/v1/files")
async def upload(
    request: Request,
    desk: AtDesk,
    file: UploadFile,
    purpose: Annotated[Literal["batch"], Form()],
    anchor: Annotated[Literal["created_at"] | None, Form(alias="expires_after[anchor]")] = None,
    seconds: Annotated[
        int | None, Form(alias="expires_after[seconds]", ge=HOUR_S, le=MONTH_S)
    ] = None,
) -> FileBody:
    """Keep the requests of a batch: JSON lines, each checked. They go after 30 days, or sooner."""
    key: Key = request.state.key
    size = file.size or 0
    await desk.database.read(lambda connection: files.check_room(connection, key.owner, size))
    kept_us = files.KEPT_US if seconds is None else seconds * 1_000_000
    stored = await _stored(desk, key, file.file, _name(file.filename), kept_us)
    return FileBody.of(stored)


@router.get("/v1/files")
async def list_files(
    request: Request,
    desk: AtDesk,
    after: Annotated[str | None, Query(max_length=64, pattern=PRINTABLE)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    order: Literal["asc", "desc"] = "desc",
    purpose: Literal["batch", "batch_output"] | None = None,
) -> FileList:
    """The files of the key's owner, the newest first."""
    key: Key = request.state.key

    def rows(connection: Connection) -> list[File]:
        last = None if after is None else files.get(connection, key, after)
        first = order == "asc"
        return [*files.list(connection, key, last, limit + 1, purpose, oldest_first=first)]

    found = await desk.database.read(rows)
    shown = [FileBody.of(file) for file in found[:limit]]
    return FileList(
        data=shown,
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
        has_more=len(found) > limit,
    )


@router.get("/v1/files/{file_id}")
async def one_file(file_id: FileId, request: Request, desk: AtDesk) -> FileBody:
    """What is known of a file."""
    return FileBody.of(await _found(desk, request.state.key, file_id))


@router.get("/v1/files/{file_id}/content", response_class=StreamingResponse)
async def content(file_id: FileId, request: Request, desk: AtDesk) -> StreamingResponse:
    """The words of a file, as they were uploaded or as a batch wrote them."""
    file = await _found(desk, request.state.key, file_id)
    path = desk.content.path(file.blob)
    if not path.exists():
        raise Problem(404, "file_not_found", f"file: no file '{file.id}'")
    # A file of this purpose is JSON lines, and no browser should make anything else of it.
    return StreamingResponse(
        files.words(path, file.id),
        media_type="application/jsonl",
        headers={"Content-Length": str(file.bytes), "X-Content-Type-Options": "nosniff"},
    )


@router.delete("/v1/files/{file_id}")
async def delete(file_id: FileId, request: Request, desk: AtDesk) -> FileDeleted:
    """Delete a file, unless a batch works on it. A batch's answers go with its output file."""
    key: Key = request.state.key

    def gone(connection: Connection) -> File:
        file = files.locked(connection, key, file_id)
        files.delete(connection, file)
        return file

    file = await desk.database.write(gone)
    await anyio.to_thread.run_sync(desk.content.delete, file.blob)
    return FileDeleted(id=file.id)


async def _found(desk: Desk, key: Key, file_id: str) -> File:
    return await desk.database.read(lambda connection: files.get(connection, key, file_id))


async def _stored(desk: Desk, key: Key, upload: BinaryIO, name: str, kept_us: int) -> File:
    """Check and write in one pass: what does not fit leaves nothing."""
    file_id, checked = files.new_id(), Checked(upload)
    blob = await anyio.to_thread.run_sync(files.store, desk.content, file_id, checked)

    def added(connection: Connection) -> File:
        now = database_now(connection)
        files.check_room(connection, key.owner, checked.size)
        file = File(
            id=file_id,
            key_id=key.id,
            owner=key.owner,
            name=name,
            purpose="batch",
            bytes=checked.size,
            blob=blob,
            lines=checked.lines,
            endpoint=checked.endpoint,
            created_us=now,
            expires_us=now + kept_us,
        )
        files.add(connection, file)
        return file

    try:
        return await desk.database.write(added, durable=True)
    except (Problem, TrimtabError):
        await anyio.to_thread.run_sync(desk.content.delete, blob)
        raise


def _name(given: str | None) -> str:
    """A label for people, never a place: without folders, without control characters."""
    last = re.split(r"[/\\]", given or "")[-1]
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "", last)[:255] or "requests.jsonl"
