"""A line of a batch in the hands of whoever claimed it."""

import hashlib
from dataclasses import dataclass

from trimtab.gateway.keys import Key
from trimtab.gateway.offline.batches import Batch
from trimtab.gateway.offline.requests import Request
from trimtab.gateway.tables import LOCK_LINE
from trimtab.store.database import Connection


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was claimed. `number` counts from 0; `attempts` are those before this one."""

    batch: Batch
    key: Key
    number: int
    request_id: str
    request: Request
    attempts: int
    claim: str

    def mine(self, connection: Connection) -> bool:
        """Whether the line is still ours; nobody else can take it until the transaction ends."""
        wanted = {"request": self.request_id, "claim": self.claim}
        return connection.execute(LOCK_LINE, wanted).first() is not None


def request_id(batch_id: str, number: int) -> str:
    """The id of a line's request, the same however often it is tried: it is billed once."""
    print_ = hashlib.sha256(f"{batch_id}/{number}".encode()).hexdigest()
    return f"req_{print_[:32]}"
