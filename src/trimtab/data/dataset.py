"""A dataset: an immutable list of records in splits, its recipe, and every record dropped.

The same records give the same dataset and the same hash, whatever order they were read in.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimtab.canonical import canonical_json, content_hash
from trimtab.data.clean import clean_all
from trimtab.data.deduplicate import deduplicate
from trimtab.data.dropped import Dropped
from trimtab.data.layout import record_of
from trimtab.data.leakage import without_leaks
from trimtab.data.record import Needs, Record
from trimtab.data.sources import Row, read_file, read_hub
from trimtab.data.split import SPLITS, Split, split
from trimtab.errors import DataError
from trimtab.inference import message_json, message_of_json


@dataclass(frozen=True, slots=True)
class FileSource:
    """`name` is the path as the project writes it, which errors and records show."""

    path: Path
    name: str

    def rows(self) -> Iterable[Row]:
        return read_file(self.path, self.name)


@dataclass(frozen=True, slots=True)
class HubSource:
    dataset: str
    split: str

    def rows(self) -> Iterable[Row]:
        return read_hub(self.dataset, self.split)


Source = FileSource | HubSource


@dataclass(frozen=True, slots=True)
class Recipe:
    """How records were split, in shares of all prompts, and what each of them had to hold."""

    holdout: float
    shadow: float
    seed: int
    needs: Needs = "answer"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Records by split, each split ordered by record hash; `read` counts the rows that came in."""

    recipe: Recipe
    train: tuple[Record, ...]
    holdout: tuple[Record, ...]
    shadow: tuple[Record, ...]
    dropped: tuple[Dropped, ...]

    @property
    def hash(self) -> str:
        """Over the recipe and the content of every split: not over files, lines or drops."""
        content = {name: [record.hash for record in self.of(name)] for name in SPLITS}
        return content_hash({"recipe": asdict(self.recipe), "records": content})

    def of(self, name: Split) -> tuple[Record, ...]:
        return {"train": self.train, "holdout": self.holdout, "shadow": self.shadow}[name]

    @property
    def counts(self) -> dict[str, int]:
        """Rows read, records in each split, and drops by reason."""
        kept: dict[str, int] = {name: len(self.of(name)) for name in SPLITS}
        reasons = Counter(drop.reason for drop in self.dropped)
        return {"read": sum(kept.values()) + len(self.dropped), **kept, **reasons}

    def to_manifest(self) -> bytes:
        """Everything, as one canonical JSON blob."""
        splits = {name: [_record_json(record) for record in self.of(name)] for name in SPLITS}
        dropped = [asdict(drop) for drop in self.dropped]
        return canonical_json({"recipe": asdict(self.recipe), **splits, "dropped": dropped})

    @classmethod
    def from_manifest(cls, data: bytes) -> "Dataset":
        content = json.loads(data)
        splits = {name: tuple(map(_record_of_json, content[name])) for name in SPLITS}
        dropped = tuple(Dropped(**drop) for drop in content["dropped"])
        return cls(recipe=Recipe(**content["recipe"]), dropped=dropped, **splits)


def build(sources: Sequence[Source], recipe: Recipe) -> Dataset:
    """Read, clean, deduplicate, split and check for leakage.

    Raises DataError with file and line for what cannot be read, where a split stays empty, where
    the check for leakage would take most of the training records, and where no held-out answer is
    good.
    """
    rows = (row for source in sources for row in source.rows())
    cleaned, empty = clean_all(record_of(row, recipe.needs) for row in rows)
    unique, twice = deduplicate(cleaned)
    parts = split(unique, holdout=recipe.holdout, shadow=recipe.shadow, seed=recipe.seed)
    holdout = parts["holdout"]
    shadow, early = without_leaks(parts["shadow"], holdout)
    train, late = without_leaks(parts["train"], [*holdout, *shadow])
    _refuse_common_wording(late, len(parts["train"]))
    dropped = [*empty, *twice, *early, *late]
    dataset = Dataset(
        recipe=recipe,
        train=_ordered(train),
        holdout=_ordered(holdout),
        shadow=_ordered(shadow),
        dropped=tuple(sorted(dropped, key=lambda d: (d.source, d.line))),
    )
    for name in SPLITS:
        if not dataset.of(name):
            raise DataError(
                f"the split '{name}' is empty: {len(unique)} different records are too few",
                hint="add records, or raise data.holdout and data.shadow",
            )
    if all(record.label is False for record in dataset.holdout):
        raise DataError(
            f"none of the {len(dataset.holdout)} held-out answers is labelled good, so there is "
            "nothing to measure by",
            hint="add good answers, raise data.holdout, or set another data.seed",
        )
    return dataset


def _refuse_common_wording(leaks: Sequence[Dropped], records: int) -> None:
    if 2 * len(leaks) > records:
        raise DataError(
            f"{len(leaks)} of {records} training records would be dropped as leaks; the first one "
            f"{leaks[0].detail}",
            hint="put an instruction that records repeat into data.system, and take it out of them",
        )


def _ordered(records: Iterable[Record]) -> tuple[Record, ...]:
    return tuple(sorted(records, key=lambda record: record.hash))


def _record_json(record: Record) -> dict[str, Any]:
    turns = [message_json(message) for message in record.messages]
    beside: dict[str, Any] = {}
    if record.rejected:
        beside["rejected"] = record.rejected
    if record.label is not None:
        beside["label"] = record.label
    return {"messages": turns, "source": record.source, "line": record.line, **beside}


def _record_of_json(content: dict[str, Any]) -> Record:
    turns = tuple(map(message_of_json, content["messages"]))
    rejected, label = content.get("rejected", ""), content.get("label")
    return Record(turns, content["source"], content["line"], rejected, label)
