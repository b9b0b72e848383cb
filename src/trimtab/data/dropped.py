"""A record that did not come through, and why."""

from dataclasses import dataclass

from trimtab.data.record import Record


@dataclass(frozen=True, slots=True)
class Dropped:
    """`reason` is the class that people count; `detail` names the other record or the words."""

    record: str
    source: str
    line: int
    reason: str
    detail: str

    @classmethod
    def of(cls, record: Record, reason: str, detail: str) -> "Dropped":
        return cls(record.hash, record.source, record.line, reason, detail)
