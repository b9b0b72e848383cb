"""Fetching one file over HTTP: resumed, checked against its SHA-256, and there whole or not at all.

What was received lies in a `.part` file beside the target and survives `kill -9`; the next fetch
goes on where it ended, if the server can.
"""

import hashlib
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx
from filelock import FileLock

from trimtab.errors import BaseError
from trimtab.store.disk import hash_of_file, keep_whole, storing

# How much is there, and how much there will be (None: the server did not say).
Progress = Callable[[int, int | None], None]
_CHUNK = 1 << 18
_TIMEOUT = httpx.Timeout(30.0, connect=15.0)


def fetch(
    url: str, into: Path, sha256: str, size: int | None = None, on_progress: Progress | None = None
) -> Path:
    """Make `into` the file at `url`. A file with the right sum is left alone.

    One process fetches a file at a time; others wait for it. Raises BaseError when it cannot be
    fetched or is not what was recorded, and StorageFull.
    """
    with storing(into):
        into.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{into}.lock"):
            if into.is_file() and hash_of_file(into) == sha256:
                return into
            part = into.with_name(f"{into.name}.part")
            _receive(url, part, size, on_progress or _unheard)
            _check(url, part, sha256)
            keep_whole(part, into)
    return into


def _receive(url: str, part: Path, size: int | None, on_progress: Progress) -> None:
    """Bring `part` up to the whole file."""
    there = part.stat().st_size if part.exists() else 0
    if size is not None and there >= size:
        return
    if url.startswith("file:"):
        _copy(url, part)
        return
    # `ssl.create_default_context` trusts the system's certificates and SSL_CERT_FILE.
    context = ssl.create_default_context()
    headers = {"Range": f"bytes={there}-"} if there else {}
    headers["Accept-Encoding"] = "identity"
    try:
        with (
            httpx.Client(verify=context, follow_redirects=True, timeout=_TIMEOUT) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and there:
                return  # all of it is there; the sum will tell
            _refuse_failure(url, response)
            _write(response, part, size, on_progress)
    except httpx.HTTPError as error:
        raise BaseError(
            f"{url}: {str(error) or type(error).__name__}",
            hint="check the network, then do the same again: it goes on where it stopped; "
            "offline, name a folder that holds the model as the base",
        ) from error


def _copy(url: str, part: Path) -> None:
    """pip names files of this machine where it is told to look into a folder (--find-links)."""
    try:
        shutil.copyfile(url2pathname(urlsplit(url).path), part)
    except FileNotFoundError:
        raise BaseError(f"{url}: no such file", hint="check pip's find-links") from None


def _write(response: httpx.Response, part: Path, size: int | None, on_progress: Progress) -> None:
    goes_on = response.status_code == httpx.codes.PARTIAL_CONTENT
    there = part.stat().st_size if goes_on else 0
    announced = response.headers.get("Content-Length", "")
    total = size or (there + int(announced) if announced.isdecimal() else None)
    with part.open("ab" if goes_on else "wb") as file:
        on_progress(there, total)
        for chunk in response.iter_bytes(_CHUNK):
            file.write(chunk)
            there += len(chunk)
            on_progress(there, total)


def _refuse_failure(url: str, response: httpx.Response) -> None:
    if response.is_success:
        return
    raise BaseError(
        f"{url}: the server answered {response.status_code} {response.reason_phrase}",
        hint="check the name of the model, and whether it needs a login",
    )


def _check(url: str, part: Path, sha256: str) -> None:
    found = hash_of_file(part) if part.exists() else hashlib.sha256().hexdigest()
    if found == sha256:
        return
    part.unlink(missing_ok=True)
    raise BaseError(
        f"{url}: its SHA-256 is {found[:12]}..., not the recorded {sha256[:12]}...",
        hint="the file was thrown away; do the same again, and if it stays so, do not trust it",
    )


def _unheard(there: int, total: int | None) -> None:
    pass
