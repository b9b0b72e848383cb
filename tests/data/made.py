"""Records for the tests of this room."""

import json
from pathlib import Path
from typing import Any

from trimtab.data.record import Record
from trimtab.inference import Message


def record(asked: str, answer: str = "Certainly.", line: int = 1) -> Record:
    return Record((Message("user", asked), Message("assistant", answer)), "made.jsonl", line)


def write_jsonl(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return file
