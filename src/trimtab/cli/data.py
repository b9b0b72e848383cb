"""`trimtab data`: the dataset, and what was dropped."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

from trimtab.cli.options import (
    home_option,
    json_option,
    print_json,
    print_table,
    project_argument,
    verbose_option,
)


@click.command("data")
@project_argument
@home_option
@json_option
@verbose_option
def command(path: Path | None, home: Path | None, as_json: bool) -> None:
    """Build the dataset of PROJECT and list every record that was dropped, with its reason."""
    from trimtab.cli.loop import plain, run_until
    from trimtab.data.dataset import Dataset

    outcome = run_until("data", path, home)
    manifest = outcome.home.blobs.read_bytes(outcome.outputs["data"]["manifest"])
    dataset = Dataset.from_manifest(manifest)
    if as_json:
        print_json(plain(outcome, dropped=[asdict(drop) for drop in dataset.dropped]))
        return
    if dataset.dropped:
        rows = [(f"{d.source}:{d.line}", d.reason, d.detail) for d in dataset.dropped]
        print_table("dropped", ("where", "reason", "detail"), rows)
    reasons = Counter(drop.reason for drop in dataset.dropped)
    splits = [(name, str(len(dataset.of(name)))) for name in ("train", "holdout", "shadow")]
    dropped = [(f"dropped: {reason}", str(count)) for reason, count in sorted(reasons.items())]
    print_table(f"dataset {dataset.hash[:12]}", ("split", "records#"), [*splits, *dropped])
