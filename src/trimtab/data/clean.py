"""Cleans the text of records without changing what it says; what is empty then is dropped."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import replace

from trimtab.data.dropped import Dropped
from trimtab.data.record import Record

# Everything below space but tab and line feed, and DEL: never meant, and invisible in a review.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def clean_all(records: Iterable[Record]) -> tuple[list[Record], list[Dropped]]:
    """The records, cleaned, and those of which nothing was left to ask, to answer or to prefer."""
    kept: list[Record] = []
    dropped: list[Dropped] = []
    for given in records:
        record = clean(given)
        if what := _lost(given, record):
            dropped.append(Dropped.of(record, "empty", f"no {what} is left after cleaning"))
        elif record.answer == record.rejected:
            dropped.append(Dropped.of(record, "no preference", "chosen and rejected are the same"))
        else:
            kept.append(record)
    return kept, dropped


def _lost(given: Record, record: Record) -> str:
    """What cleaning has left nothing of."""
    if not record.asked.strip():
        return "question"
    if not record.answer:
        return "answer"
    return "rejected answer" if given.rejected and not record.rejected else ""


def clean(record: Record) -> Record:
    """NFC, line feeds only, no control characters, no white space around a turn."""
    turns = tuple(replace(turn, content=clean_text(turn.content)) for turn in record.messages)
    return replace(record, messages=turns, rejected=clean_text(record.rejected))


def clean_text(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # In this order: a control character between a letter and its accent keeps them apart.
    return unicodedata.normalize("NFC", _CONTROL.sub("", text)).strip()
