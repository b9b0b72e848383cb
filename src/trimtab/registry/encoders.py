"""Encoders of a home: models that make one vector of a text.

Identity is content, as for a version: the tensors, the mathematical fields of the config, the
tokenizer, and how hidden states become one vector. Knows the layout of sentence-transformers, which
this reads: `modules.json`, `1_Pooling/config.json`, `sentence_bert_config.json`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.canonical import canonical_json, content_hash
from trimtab.errors import BaseError
from trimtab.registry.identity import base_hash, tokenizer_hash
from trimtab.registry.tables import encoders
from trimtab.registry.weights import read_json
from trimtab.store.clock import now_us
from trimtab.store.database import Connection
from trimtab.store.rows import insert_or_update

MODULES = ["Transformer", "Pooling", "Normalize"]


@dataclass(frozen=True, slots=True)
class Encoder:
    """`dimensions` numbers a vector; `max_tokens` counts a text's tokens, its frame included."""

    hash: str
    name: str
    folder: Path
    dimensions: int
    max_tokens: int
    source: Mapping[str, Any] = field(default_factory=dict)
    created_us: int = field(default_factory=now_us)


def read(folder: Path, name: str, source: Mapping[str, Any] | None = None) -> Encoder:
    """The encoder that lies in a folder. Raises BaseError where it pools in another way than by the
    mean of all tokens, scaled to length one."""
    if not (folder / "modules.json").is_file():
        raise BaseError(
            f"{folder}: has no modules.json",
            hint="an encoder is a folder in the layout of sentence-transformers",
        )
    modules = [str(module.get("type", "")).rpartition(".")[2] for module in _modules(folder)]
    pooling = read_json(folder / "1_Pooling" / "config.json")
    modes = [mode for mode, on in pooling.items() if mode.startswith("pooling_mode_") and on]
    if modules != MODULES or modes != ["pooling_mode_mean_tokens"]:
        raise BaseError(
            f"{folder}: an encoder of {', '.join(modules)} by {', '.join(modes) or 'nothing'}",
            hint="mean pooling and length one are what is computed here, e.g. all-minilm-l6-v2",
        )
    max_tokens = min(
        _count(folder / "sentence_bert_config.json", "max_seq_length"),
        _count(folder / "config.json", "max_position_embeddings"),
    )
    identity = {
        "base": base_hash(folder),
        "tokenizer": tokenizer_hash(folder),
        "pooling": "mean",
        "normalised": True,
        "max_tokens": max_tokens,
    }
    return Encoder(
        hash=content_hash(identity),
        name=name,
        folder=folder,
        dimensions=_count(folder / "config.json", "hidden_size"),
        max_tokens=max_tokens,
        source=source or {"folder": str(folder)},
    )


def add(connection: Connection, encoder: Encoder) -> None:
    """Register an encoder under its name, in place of what had the name before."""
    row = {
        "name": encoder.name,
        "hash": encoder.hash,
        "folder": str(encoder.folder),
        "dimensions": encoder.dimensions,
        "max_tokens": encoder.max_tokens,
        "source": canonical_json(dict(encoder.source)).decode(),
        "created_us": encoder.created_us,
    }
    insert_or_update(connection, encoders, row, key=["name"])


def list(connection: Connection) -> Sequence[Encoder]:
    """Every encoder, by name."""
    rows = connection.execute(encoders.select().order_by(encoders.c.name))
    return tuple(
        Encoder(
            row.hash,
            row.name,
            Path(row.folder),
            row.dimensions,
            row.max_tokens,
            json.loads(row.source),
            row.created_us,
        )
        for row in rows
    )


def _modules(folder: Path) -> Sequence[Mapping[str, Any]]:
    """`modules.json` is a list, unlike the other files."""
    try:
        found = json.loads((folder / "modules.json").read_bytes())
    except (ValueError, RecursionError) as error:
        raise BaseError(f"{folder}/modules.json: {error}", hint="fetch the encoder again") from None
    if not isinstance(found, Sequence):
        raise BaseError(f"{folder}/modules.json: not a list", hint="fetch the encoder again")
    return [module for module in found if isinstance(module, dict)]


def _count(path: Path, field: str) -> int:
    found = read_json(path).get(field)
    if not isinstance(found, int) or found < 1:
        raise BaseError(
            f"{path}: {field} is {found!r}, and not a number from 1", hint="fetch the encoder again"
        )
    return found
