"""What pydantic finds wrong with a project file, as one line that says where and what to do."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from trimtab.errors import ProjectError
from trimtab.project.data import KINDS


def fault(file: Path, error: dict[str, Any], whole: type[BaseModel]) -> ProjectError:
    """The error of a field of `whole`, as pydantic's `errors()` tells it."""
    # The kind of a source is ours to choose, and no field that anybody wrote.
    place = [str(part) for part in error["loc"] if part not in KINDS]
    field = ".".join(place) or "the file"
    if error["type"] == "extra_forbidden":
        known = _fields_at(whole, error["loc"][:-1])
        near = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(sorted(known))}"
        return ProjectError(f"{file}: unknown field '{field}'", hint=hint)
    if error["type"].startswith("model_"):
        return ProjectError(
            f"{file}: field '{field}' is no group of fields (given: {error['input']!r})",
            hint="e.g. {path: records.jsonl} for one of data.sources",
        )
    if error["type"] == "missing":
        return ProjectError(f"{file}: field '{field}' is missing", hint=f"add '{field}'")
    message = re.sub(r"^Value error, ", "", str(error["msg"]))
    given = error.get("input")
    shown = "" if isinstance(given, dict | list) else f" (given: {given!r})"
    return ProjectError(
        f"{file}: field '{field}': {message[:1].lower()}{message[1:]}{shown}",
        hint="see the commented file that trimtab init writes",
    )


def _fields_at(whole: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """The fields of the section at a place, as pydantic names it."""
    if place and place[-1] in KINDS:
        return list(KINDS[str(place[-1])].model_fields)
    model = whole
    for part in place:
        annotation = model.model_fields[str(part)].annotation
        # A section that may be left out is `Section | None`.
        annotation = next(iter(get_args(annotation)), annotation)
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        model = annotation
    return list(model.model_fields)
