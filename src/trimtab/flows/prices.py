"""The price table of a home: what a token of each version and encoder costs, and from when on.

What was charged stays charged: a price may be stated for times to come, and for past ones only
where nobody was answered since.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from trimtab.canonical import short
from trimtab.errors import NotFound, UserError
from trimtab.journal import requests
from trimtab.ledger import reservation
from trimtab.ledger.money import Price
from trimtab.ledger.prices import history, set_price
from trimtab.ledger.tables import database_now
from trimtab.project import Project
from trimtab.registry import deployments, encoders, versions
from trimtab.store import clock
from trimtab.store.database import Connection

State = Literal["past", "now", "later"]


@dataclass(frozen=True, slots=True)
class Stated:
    """A row of the table. `names` are the deployments that a version is live for, or the encoder's
    name."""

    version: str
    names: tuple[str, ...]
    price: Price
    from_us: int
    state: State


def table(connection: Connection) -> Sequence[Stated]:
    """Every price that was ever stated, by name and version, the oldest first."""
    now, known = database_now(connection), _names(connection)
    found, rows = [], history(connection)
    for at, row in enumerate(rows):
        after = rows[at + 1] if at + 1 < len(rows) else None
        state: State = "now"
        if row.from_us > now:
            state = "later"
        elif after is not None and after.version == row.version and after.from_us <= now:
            state = "past"
        found.append(Stated(row.version, known.get(row.version, ()), row.price, row.from_us, state))
    return sorted(found, key=lambda each: (not each.names, each.names, each.version, each.from_us))


def state(connection: Connection, name: str, price: Price, from_us: int | None = None) -> Stated:
    """What a token costs from a time on, else from now on: of a deployment's live version, of an
    encoder, or of a version by its hash.

    Raises NotFound, and UserError for a past time since which somebody was answered.
    """
    version, now = _version(connection, name), database_now(connection)
    from_us = now if from_us is None else from_us
    if from_us < now:
        _check_uncharged(connection, version, from_us)
    set_price(connection, version, price, from_us)
    names = _names(connection).get(version, ())
    return Stated(version, names, price, from_us, "later" if from_us > now else "now")


def check_undecided(connection: Connection, project: Project, name: str) -> None:
    """Raises UserError where a project's file says what this version costs: the next run that
    promotes would undo another price."""
    if project.serve.price is None:
        return
    bases = {each.hash: each.spec.base for each in versions.list(connection)}
    live = {each.name: each.live for each in deployments.list(connection)}.get(project.deployment)
    version = _version(connection, name)
    if version in bases and live is not None and bases[version] == bases[live]:
        raise UserError(
            f"serve.price in {project.name}'s file says what version {short(version)} costs",
            hint="change it there (prompt, completion, cached) and run the loop, or take it out",
        )


def moment(written: str) -> int:
    """Microseconds since the epoch of a date or an ISO 8601 time; UTC where it names no zone.

    Raises UserError.
    """
    try:
        found = datetime.fromisoformat(written)
    except ValueError:
        raise UserError(
            f"'{written[:40]}' is no date", hint="e.g. 2027-01-01, or 2027-01-01T06:00Z"
        ) from None
    zoned = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    return int(zoned.timestamp()) * 1_000_000


def _check_uncharged(connection: Connection, version: str, from_us: int) -> None:
    charged = requests.charged_since(connection, version, from_us)
    if charged:
        raise UserError(
            f"version {short(version)} has answered since {clock.show(from_us)}, {charged} times, "
            "and what was charged stays",
            hint="state a price from now on, or from a later date",
        )
    # What is under way was admitted at the price that counted then.
    if reservation.any_open(connection):
        raise UserError(
            "requests are being answered at the moment, at the prices that counted when they came",
            hint="state a price from now on, or try again when nothing is under way",
        )


def _version(connection: Connection, name: str) -> str:
    deployed = {each.name: each.live for each in deployments.list(connection)}
    if name in deployed:
        return deployed[name]
    for encoder in encoders.list(connection):
        if name in (encoder.name, encoder.hash, short(encoder.hash)):
            return encoder.hash
    try:
        return versions.get(connection, name).hash
    except NotFound:
        raise NotFound(
            f"no deployment, encoder or version '{name[:80]}'",
            hint=f"deployed here: {', '.join(deployed) or 'nothing yet; first: trimtab run'}",
        ) from None


def _names(connection: Connection) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    live = [(each.live, each.name) for each in deployments.list(connection)]
    for version, name in [*live, *((each.hash, each.name) for each in encoders.list(connection))]:
        found[version] = (*found.get(version, ()), name)
    return found
