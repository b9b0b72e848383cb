"""data: the project's sources become a dataset."""

from dataclasses import asdict
from functools import partial
from typing import Any

from trimtab.canonical import short
from trimtab.data.dataset import Dataset, FileSource, HubSource, Recipe, Source, build
from trimtab.data.split import SPLITS
from trimtab.errors import DataError
from trimtab.flows.work import Outputs, Result, Work
from trimtab.project import PathSource
from trimtab.registry import datasets
from trimtab.registry.datasets import DatasetEntry, SourceLine
from trimtab.store.database import Connection
from trimtab.store.disk import hash_of_file
from trimtab.train.objectives import objective_of


def inputs(work: Work, outputs: Outputs) -> dict[str, Any]:
    """The content of the files, not their names or dates; a Hub source by its id."""
    return {
        "sources": [_identity(source) for source in _sources(work)],
        "recipe": _plain(_recipe(work)),
    }


def work(work: Work, outputs: Outputs) -> Result:
    dataset = build(_sources(work), _recipe(work))
    manifest = work.home.blobs.put_bytes(dataset.to_manifest())
    counts = dataset.counts
    output = {"dataset": dataset.hash, "manifest": manifest, "counts": counts}
    line = (
        f"{short(dataset.hash)}: {counts['read']} read, {counts['train']} train, "
        f"{counts['holdout']} held out, {counts['shadow']} shadow, {len(dataset.dropped)} dropped"
    )
    return Result(output, line, partial(_write, work.project.name, dataset, manifest))


def _write(project: str, dataset: Dataset, manifest: str, connection: Connection) -> None:
    entry = DatasetEntry(
        hash=dataset.hash,
        project=project,
        recipe=_plain(dataset.recipe),
        manifest=manifest,
        counts=dataset.counts,
    )
    lines = [
        SourceLine(record.hash, split, record.source, record.line)
        for split in SPLITS
        for record in dataset.of(split)
    ]
    datasets.add(connection, entry, lines)


def _sources(work: Work) -> list[Source]:
    return [
        FileSource(work.project.root / source.path, source.path)
        if isinstance(source, PathSource)
        else HubSource(source.hub, source.split)
        for source in work.project.data.sources
    ]


def _recipe(work: Work) -> Recipe:
    section = work.project.data
    needs = objective_of(work.project.train.objective).needs
    return Recipe(section.holdout, section.shadow, section.seed, needs)


def _plain(recipe: Recipe) -> dict[str, Any]:
    return asdict(recipe)


def _identity(source: Source) -> dict[str, str]:
    if isinstance(source, HubSource):
        return {"hub": source.dataset, "split": source.split}
    try:
        return {"name": source.name, "sha256": hash_of_file(source.path)}
    except FileNotFoundError:
        raise DataError(
            f"{source.path}: no such file", hint="data.sources are relative to the project file"
        ) from None
    except OSError as error:
        raise DataError(f"{source.path}: {error.strerror}", hint="see data.sources") from None
