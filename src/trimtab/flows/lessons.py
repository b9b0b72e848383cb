"""From the records of a dataset to what training takes."""

from collections.abc import Iterable

from trimtab.data.record import Record
from trimtab.train.lesson import Lesson


def lessons_of(records: Iterable[Record]) -> list[Lesson]:
    """Records as lessons, in their order."""
    return [Lesson(record.messages, record.rejected, record.label) for record in records]
