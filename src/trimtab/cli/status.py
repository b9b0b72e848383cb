"""`trimtab status`: what is live, and why."""

from pathlib import Path
from typing import Any

import click

from trimtab.cli.options import (
    home_option,
    json_option,
    open_home,
    print_facts,
    print_json,
    project_argument,
    project_if_any,
    verbose_option,
)


@click.command("status")
@project_argument
@home_option
@json_option
@verbose_option
def command(path: Path | None, home: Path | None, as_json: bool) -> None:
    """Show each deployment: the live version, since when and why, latency and SLO."""
    opened = open_home(home, path)

    from trimtab.flows.status import status

    database = opened.database()
    try:
        found = status(database, project_if_any(path))
    finally:
        database.close()
    if as_json:
        print_json(found)
    elif not found["deployments"]:
        click.echo(f"nothing is deployed in {opened.root} - first: trimtab run")
    for deployment in () if as_json else found["deployments"]:
        _show(deployment)


def _show(deployment: dict[str, Any]) -> None:
    live, slo = deployment["live"], deployment["slo"]
    rows = [
        ("live", live["model_version"]),
        ("since", live["since"]),
        ("why", live["why"]),
        ("exact match", f"{_share(live['exact_match'])} (base {_share(live['base_exact_match'])})"),
        ("warm beside it", deployment["idle"] or "-"),
        ("requests", str(slo["requests"])),
        ("p50", _ms(slo["p50_ms"])),
        ("p95", f"{_ms(slo['p95_ms'])}, target {slo['target']['p95_ms']:g} ms: {slo['latency']}"),
        ("availability", f"target {slo['target']['availability']:.1%}: {slo['availability']}"),
    ]
    print_facts(f"deployment {deployment['name']}", rows)


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1%}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
