"""Reads rows from files and from the Hub. Every fault names the file and the line.

Knows no formats beyond the container: what a row means is `data.layout`'s business.
"""

import csv
import io
import json
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import DataError
from trimtab.registry.hub import quieten

# Characters of a library's message that an error repeats.
LONGEST = 160


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a source. `line` counts from 1."""

    fields: dict[str, Any]
    source: str
    line: int

    @property
    def place(self) -> str:
        return f"{self.source}:{self.line}"


def read_file(path: Path, name: str) -> Iterator[Row]:
    """The rows of a JSONL, JSON or CSV file, told by its ending. `name` is what errors show.

    Raises DataError: no such file, not UTF-8, not JSON, not an object, or no rows at all.
    """
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(readers)
        raise DataError(f"{name}: unknown kind of file", hint=f"known endings: {known}")
    count = 0
    for row in reader(_text(path, name), name):
        count += 1
        yield row
    if not count:
        raise DataError(f"{name}: holds no records", hint="put at least a few dozen into it")


def read_hub(dataset: str, split: str) -> Iterator[Row]:
    """The rows of a Hub dataset. Raises DataError where it cannot be had."""
    name = f"hub:{dataset}[{split}]"
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise DataError(
            f"{name}: the package datasets is not installed", hint="pip install 'trimtab[train]'"
        ) from None
    quieten()
    try:
        for number, fields in enumerate(load_dataset(dataset, split=split), start=1):
            yield Row(dict(fields), name, number)
    # The library raises dozens of kinds: of the network, the Hub, the file format, the split, and
    # of pictures and sounds that it decodes.
    except Exception as error:
        raise DataError(
            f"{name}: {_first_words(error)}",
            hint="check the id, the split and the network, or use a local file",
        ) from error


def _first_words(error: Exception) -> str:
    """As much of a library's message as fits into a line."""
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return textwrap.shorten(first, LONGEST, placeholder=" ...")


def _text(path: Path, name: str) -> str:
    try:
        if path.exists() and not path.is_file():
            # What is no file of its own may have no end, or give its content but once.
            raise DataError(f"{name}: not a file", hint="check the path")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{name}: no such file", hint="paths are relative to the project") from None
    except OSError as error:
        raise DataError(f"{name}: {error.strerror}", hint="check the path") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}:{line}: not UTF-8 at byte {error.start}", hint="save the file as UTF-8"
        ) from None


def _jsonl(text: str, name: str) -> Iterator[Row]:
    # Not splitlines(): JSON strings may hold U+2028 and other separators that it would cut at.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _object(_parsed(line, name, number), name, number)


def _json(text: str, name: str) -> Iterator[Row]:
    # The first reading tells what is no JSON; what JSON lacks is told below, with its own line.
    content = _parsed(text, name, 1, constant=str)
    if not isinstance(content, list):
        raise DataError(f"{name}: not a list", hint="a .json source is one list of objects")
    for item, line in _items(text):
        yield _object(_parsed(item, name, line), name, line)


def _items(text: str) -> Iterator[tuple[str, int]]:
    """The text of each item of a JSON list and the line it starts on, which no parser tells."""
    decoder = json.JSONDecoder()
    line, counted, place = 1, 0, text.index("[") + 1
    while True:
        while text[place] in " \t\r\n,":
            place += 1
        if text[place] == "]":
            return
        line += text.count("\n", counted, place)
        counted = place
        _, end = decoder.raw_decode(text, place)
        yield text[place:end], line
        place = end


def _csv(text: str, name: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text), strict=True)
    header: list[str] = []
    start = 1
    try:
        for cells in reader:
            # A cell may go over several lines; a row is named by its first.
            line, start = start, reader.line_num + 1
            if not cells:
                continue
            if not header:
                header = cells
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{name}:{line}: more or fewer cells than the header names",
                    hint="quote cells that hold commas",
                )
            yield Row(dict(zip(header, cells, strict=True)), name, line)
    except csv.Error as error:
        raise DataError(f"{name}:{start}: {error}", hint="mend the line") from None


def _parsed(text: str, name: str, line: int, constant: Callable[[str], Any] | None = None) -> Any:
    try:
        return json.loads(text, parse_constant=constant or _refuse_constant)
    except RecursionError:
        raise DataError(f"{name}:{line}: nested too deeply", hint="flatten the record") from None
    except ValueError as error:
        where = line + (error.lineno - 1 if isinstance(error, json.JSONDecodeError) else 0)
        cause = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"{name}:{where}: not JSON: {cause}", hint="mend the line") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _object(value: Any, name: str, line: int) -> Row:
    if not isinstance(value, dict):
        raise DataError(
            f"{name}:{line}: not an object", hint='like {"prompt": ..., "completion": ...}'
        )
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{name}:{line}: holds half of a character (an unpaired surrogate)",
            hint="write the character whole, or take it out",
        ) from None
    return Row(value, name, line)
