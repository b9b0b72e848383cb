"""Replaying and deleting dead letters, as jobs that can be interrupted and run again.

A job takes the letters that were there when it began, some at a time, each chunk one transaction.
What it did is done: the same job again goes on with the rest.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from trimtab.errors import UserError
from trimtab.gateway.offline import lines, outcomes
from trimtab.journal import dead_letters
from trimtab.journal.dead_letters import Choice, DeadLetter
from trimtab.ledger.tables import database_now
from trimtab.store.database import Database

_AT_ONCE = 100

Advanced = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Taken:
    """`taken` are the ids of letters that were replayed or deleted; `skipped` were busy."""

    taken: tuple[str, ...]
    skipped: int


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of replayed letters: `answered` are gone, the others are dead again or wait."""

    answered: int
    dead: int
    waiting: int


def replay(database: Database, choice: Choice, ids: Sequence[str], advanced: Advanced) -> Taken:
    """Let the work of letters be done again, under the keys that it had; a gateway does it.

    Raises NotFound for an id that nobody knows, UserError for work that cannot be replayed.
    """

    def take(letters: Sequence[DeadLetter]) -> list[str]:
        taken: list[str] = []
        ours = sorted(map(_of_batch, letters), key=lambda each: each.group)
        # A batch a transaction: each locks its batch, and none waits for another's.
        for _, group in groupby(ours, key=lambda each: each.group):
            with database.transaction() as connection:
                taken += [each.id for each in group if lines.replay(connection, each)]
        return taken

    return _job(database, choice, ids, advanced, take)


def purge(database: Database, choice: Choice, ids: Sequence[str], advanced: Advanced) -> Taken:
    """Delete letters, but those that are being replayed. Raises NotFound."""

    def take(letters: Sequence[DeadLetter]) -> list[str]:
        with database.transaction() as connection:
            return [each.id for each in letters if dead_letters.purge(connection, [each.id])]

    return _job(database, choice, ids, advanced, take)


def ended(database: Database, ids: Sequence[str]) -> Ended:
    """How the replay of letters stands."""
    states: list[dead_letters.State] = []
    for at in range(0, len(ids), _AT_ONCE):
        with database.read() as connection:
            states += dead_letters.states(connection, ids[at : at + _AT_ONCE])
    return Ended(len(ids) - len(states), states.count("dead"), states.count("replaying"))


def _job(
    database: Database,
    choice: Choice,
    ids: Sequence[str],
    advanced: Advanced,
    take: Callable[[Sequence[DeadLetter]], list[str]],
) -> Taken:
    if ids:
        with database.read() as connection:
            named = [dead_letters.get(connection, each) for each in ids]
        pages, total = iter([named]), len(named)
    else:
        with database.read() as connection:
            narrowed = replace(choice, state="dead", until_us=database_now(connection))
            total = dead_letters.count(connection, narrowed)
        pages = _pages(database, narrowed)
    taken: list[str] = []
    seen = 0
    for page in pages:
        taken += take(page)
        seen += len(page)
        advanced(seen, total)
    return Taken(tuple(taken), seen - len(taken))


def _pages(database: Database, choice: Choice) -> Iterator[list[DeadLetter]]:
    after: tuple[int, str] | None = None
    while True:
        with database.read() as connection:
            page = [*dead_letters.list(connection, choice, _AT_ONCE, after)]
        if not page:
            return
        yield page
        after = (page[-1].created_us, page[-1].id)


def _of_batch(letter: DeadLetter) -> DeadLetter:
    if letter.source != outcomes.SOURCE:
        raise UserError(
            f"dead letter {letter.id} is of '{letter.source}', which cannot be replayed here",
            hint="replay letters of batches",
        )
    return letter
