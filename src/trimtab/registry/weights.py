"""Which files of a folder are its weights: one file, or the shards that an index names."""

import json
from pathlib import Path
from typing import Any

from trimtab.errors import BaseError

_SINGLE = ("model.safetensors", "adapter_model.safetensors")
_INDEX = "model.safetensors.index.json"


def weight_files(place: Path) -> dict[Path, set[str] | None]:
    """The files that a loader would read, and the tensors the index promises in each (None: any).

    `place` is a folder, or a safetensors file. Raises BaseError where there are no weights.
    """
    if place.is_file():
        return {place: None}
    for name in _SINGLE:
        if (place / name).is_file():
            return {place / name: None}
    if (place / _INDEX).is_file():
        return _shards(place)
    raise BaseError(
        f"{place}: no safetensors weights here",
        hint="weights are read from safetensors alone; save the model with safe serialisation",
    )


def _shards(folder: Path) -> dict[Path, set[str] | None]:
    index = read_json(folder / _INDEX)
    names = index.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise BaseError(f"{folder / _INDEX}: names no tensors", hint="fetch the model again")
    promised: dict[Path, set[str] | None] = {}
    for tensor, file in names.items():
        if not isinstance(file, str) or Path(file).name != file or not (folder / file).is_file():
            raise BaseError(
                f"{folder / _INDEX}: tensor '{tensor}' should be in {file!r}, which is not there",
                hint="fetch the model again, whole",
            )
        promised[folder / file] = (promised.get(folder / file) or set()) | {tensor}
    return promised


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a model's file. Raises BaseError.

    Python writes infinities and NaN as no JSON allows it (Mamba's `time_step_limit` holds one);
    they come as transformers writes them since its release 5: {"__float__": "Infinity"}.
    """
    try:
        value = json.loads(path.read_bytes(), parse_constant=_tagged)
    except FileNotFoundError:
        raise BaseError(f"{path}: no such file", hint="is the folder a whole model?") from None
    except (ValueError, RecursionError):
        raise BaseError(f"{path}: not JSON", hint="fetch the model again") from None
    if not isinstance(value, dict):
        raise BaseError(f"{path}: not a JSON object", hint="fetch the model again")
    return value


def _tagged(constant: str) -> dict[str, str]:
    return {"__float__": constant}
