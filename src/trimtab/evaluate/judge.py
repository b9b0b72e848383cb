"""Rules that judge one answer against its gold answer: exact match and valid JSON.

No model judges here, and nothing is repaired: JSON inside a code fence, or with a word before it,
is not JSON to the program that would have to read it.
"""

import json
import unicodedata
from collections.abc import Sequence
from typing import Any

from trimtab.canonical import canonical_json
from trimtab.errors import DataError


def exact_match(answer: str, gold: str, match: Sequence[str]) -> bool:
    """Whether the fields in `match` agree in value and type; with no fields, the whole text.

    Texts are compared after NFC and with runs of white space taken as one space.
    """
    if not match:
        return normalise(answer) == normalise(gold)
    given, wanted = parse_object(answer), parse_object(gold)
    if given is None or wanted is None:
        return False
    return all(
        field in given
        and field in wanted
        and canonical_json(given[field]) == canonical_json(wanted[field])
        for field in match
    )


def valid_json(answer: str, fields: frozenset[str]) -> bool:
    """Whether the answer is one JSON object that has these fields and no others."""
    given = parse_object(answer)
    return given is not None and given.keys() == fields


def gold_fields(item: str, gold: str, match: Sequence[str]) -> dict[str, Any]:
    """The gold answer as an object. Raises DataError where it lacks a field that must match."""
    wanted = parse_object(gold)
    if wanted is None:
        raise DataError(
            f"item {item[:12]}: evaluate.match is set, but the gold answer is not a JSON object",
            hint="leave evaluate.match empty, or write the answers as JSON objects",
        )
    missing = [field for field in match if field not in wanted]
    if missing:
        raise DataError(
            f"item {item[:12]}: the gold answer has no field '{missing[0]}'",
            hint=f"name one of these in evaluate.match: {', '.join(wanted)}",
        )
    return wanted


def parse_object(text: str) -> dict[str, Any] | None:
    """A strict reader: one object, no repeated key, no NaN or infinity; else None."""
    try:
        value = json.loads(text, object_pairs_hook=_no_repeats, parse_constant=_refuse)
        canonical_json(value)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def normalise(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is repeated")
    return fields


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
