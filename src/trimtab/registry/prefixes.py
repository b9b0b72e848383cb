"""Finding a row by its hash or by the first characters of it."""

import difflib
import re
from typing import Any, Protocol

from trimtab.canonical import short
from trimtab.errors import NotFound
from trimtab.store.database import Connection

SHORTEST = 8
_HEX = re.compile(r"[0-9a-f]*")


class Hashed(Protocol):
    """A table with a column `hash`."""

    @property
    def name(self) -> str: ...

    @property
    def c(self) -> Any: ...

    def select(self) -> Any: ...


def by_prefix(connection: Connection, table: Hashed, prefix: str) -> Any:
    """The one row whose hash begins with `prefix`. Raises NotFound, naming what comes near."""
    noun = table.name.removesuffix("s")
    if len(prefix) < SHORTEST or not _HEX.fullmatch(prefix):
        raise NotFound(
            f"'{prefix[:80]}' is not the hash of a {noun}",
            hint=f"give at least {SHORTEST} of its characters (0-9, a-f)",
        )
    rows = connection.execute(
        table.select().where(table.c.hash.startswith(prefix)).limit(2)
    ).fetchall()
    if len(rows) == 1:
        return rows[0]
    if rows:
        raise NotFound(f"more than one {noun} begins with {prefix}", hint="give more characters")
    raise NotFound(f"no {noun} {prefix}", hint=_nearest(connection, table, prefix))


def _nearest(connection: Connection, table: Hashed, prefix: str) -> str:
    known = connection.execute(table.select().with_only_columns(table.c.hash)).scalars().all()
    starts = {found[: len(prefix)]: found for found in known}
    near = difflib.get_close_matches(prefix, starts, n=3, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(short(starts[start]) for start in near) + "?"
    return f"there are {len(known)} here" if known else "there are none here yet"
