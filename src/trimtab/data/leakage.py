"""Keeps what is evaluated out of what is trained on.

A training record that shares eight words in a row with a held-out one is dropped. Only free wording
counts: the labels of a JSON answer are meant to recur. Questions that are alike as a whole need no
check here: `deduplicate` has left one of them, before anything was split.
"""

import json
from collections.abc import Iterable, Iterator

from trimtab.data.dropped import Dropped
from trimtab.data.record import Record, words

WORDS = 8
# A string value of a JSON answer with more words than this is free wording, not a label.
LABEL_WORDS = 3


def without_leaks(
    train: Iterable[Record], held_out: Iterable[Record]
) -> tuple[list[Record], list[Dropped]]:
    """The training records that share no 8-gram with a held-out one, and the others."""
    seen: dict[tuple[str, ...], Record] = {}
    for record in held_out:
        for gram in grams(record):
            seen.setdefault(gram, record)
    kept: list[Record] = []
    dropped: list[Dropped] = []
    for record in train:
        shared = next((gram for gram in grams(record) if gram in seen), None)
        if shared is None:
            kept.append(record)
        else:
            detail = f"shares '{' '.join(shared)}' with held-out {seen[shared].place}"
            dropped.append(Dropped.of(record, "leak", detail))
    return kept, dropped


def grams(record: Record) -> Iterator[tuple[str, ...]]:
    """Every run of eight words in a record's free wording."""
    for text in (record.asked, *free_wording(record.answer), *free_wording(record.rejected)):
        run = words(text)
        yield from zip(*(run[start:] for start in range(WORDS)), strict=False)


def free_wording(answer: str) -> list[str]:
    """What an answer says in its own words."""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return [answer]
    return [text for text in _strings(value) if len(words(text)) > LABEL_WORDS]


def _strings(value: object) -> Iterator[str]:
    """Every string value, in order. Without recursion: an answer may nest deeply."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, dict):
            waiting += reversed(found.values())
        elif isinstance(found, list):
            waiting += reversed(found)
