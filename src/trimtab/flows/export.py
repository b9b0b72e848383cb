"""A version's adapter for those who serve it elsewhere: PEFT's layout, or llama.cpp's file."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trimtab.canonical import short
from trimtab.deploy.llama_cpp import write_gguf
from trimtab.errors import UserError
from trimtab.flows.serving import package_of
from trimtab.registry import bases, versions
from trimtab.store.database import Connection
from trimtab.store.disk import storing, temporary_name
from trimtab.store.home import Home

GGUF = ".gguf"


def export(home: Home, connection: Connection, version: str, into: Path) -> str:
    """Write the adapter of a version as `into`: a file of llama.cpp's where its name ends in
    `.gguf`, else a folder of PEFT's. Returns the version's whole hash.

    Raises NotFound for an unknown version, UserError where it has no adapter or `into` is there
    already, and ProjectError where the format cannot hold the adapter. What cannot be exported
    leaves nothing behind.
    """
    found = versions.get(connection, version)
    base = bases.get(connection, found.spec.base)
    if found.spec.adapter is None:
        raise UserError(
            f"version {short(found.hash)} has no adapter: it is a base of its own",
            hint=f"its weights are a folder that every library loads: {base.folder}",
        )
    if into.exists():
        raise UserError(f"{into}: there already", hint="name another place, or delete it")
    package = package_of(home, found)
    with _writing(into):
        into.parent.mkdir(parents=True, exist_ok=True)
        if into.suffix == GGUF:
            write_gguf(package.adapter, base.folder, into, found.hash)
        else:
            _copy(package.adapter, into)
    return found.hash


def _copy(folder: Path, into: Path) -> None:
    draft = temporary_name(into)
    try:
        draft.mkdir()
        for file in folder.iterdir():
            shutil.copyfile(file, draft / file.name)
        draft.replace(into)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _writing(into: Path) -> Iterator[None]:
    """Raises StorageFull for a full disk, UserError for a place where one may not write."""
    try:
        with storing(into):
            yield
    except OSError as error:
        raise UserError(
            f"{into}: {error.strerror or error}", hint="check the path and its permissions"
        ) from None
