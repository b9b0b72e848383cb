"""What is asked of the books: to hold the price of a request, to count one that holds none, and to
settle and log it. Values alone; what becomes of them in a transaction is in `posting`.
"""

from dataclasses import dataclass
from typing import Protocol

from trimtab.gateway.billing.limits import Verdict
from trimtab.gateway.visit import Reserved, Visit
from trimtab.journal.words import Words
from trimtab.store.database import Connection


class Kept(Protocol):
    """What is written down with a settlement, in its transaction; the cost is known by then.

    `locks` names the row that others may change too: they are taken in the order of these names.
    """

    @property
    def locks(self) -> str: ...

    def keep(self, connection: Connection) -> None: ...


@dataclass(frozen=True, slots=True)
class Opening:
    """Hold the price of `prompt` and `completion` tokens, or of at least `least` of the latter."""

    visit: Visit
    version: str
    accounts: tuple[str, ...]
    prompt: int
    completion: int
    least: int


@dataclass(frozen=True, slots=True)
class Closing:
    """Settle and log, and keep what is to be kept, `words` among it. One that is `void` came to
    nothing: neither settled nor logged, as if it had never been asked. One that is `late` was
    refused by the store before."""

    visit: Visit
    status: int
    error_code: str | None
    kept: Kept | None
    void: bool = False
    late: bool = False
    words: Words | None = None


@dataclass(frozen=True, slots=True)
class Knock:
    """Count a request that holds no price against the limit of its key."""

    visit: Visit


@dataclass(frozen=True, slots=True)
class Admitted:
    reserved: Reserved
    verdict: Verdict | None


Item = Opening | Closing | Knock
