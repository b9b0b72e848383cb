"""Cleans the text of records without changing what it says; what is empty then is dropped."""

import re
import unicodedata
from collections.abc import Iterable

from trimtab.data.dropped import Dropped
from trimtab.data.record import Record
from trimtab.inference import Message

# Everything below space but tab and line feed, and DEL: never meant, and invisible in a review.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def clean_all(records: Iterable[Record]) -> tuple[list[Record], list[Dropped]]:
    """The records, cleaned, and those of which nothing was left to ask or to answer."""
    kept: list[Record] = []
    dropped: list[Dropped] = []
    for record in map(clean, records):
        if record.asked.strip() and record.answer:
            kept.append(record)
        else:
            what = "answer" if record.asked.strip() else "question"
            dropped.append(Dropped.of(record, "empty", f"no {what} is left after cleaning"))
    return kept, dropped


def clean(record: Record) -> Record:
    """NFC, line feeds only, no control characters, no white space around a turn."""
    turns = tuple(Message(turn.role, clean_text(turn.content)) for turn in record.messages)
    return Record(turns, record.source, record.line)


def clean_text(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # In this order: a control character between a letter and its accent keeps them apart.
    return unicodedata.normalize("NFC", _CONTROL.sub("", text)).strip()
