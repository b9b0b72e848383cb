"""`trimtab status`: what is live, and why."""

from pathlib import Path
from typing import Any

import click

from trimtab.canonical import short
from trimtab.cli.options import (
    home_option,
    json_option,
    moment,
    open_database,
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
    from trimtab.flows.status import status

    with open_database(home, path) as database:
        found = status(database, project_if_any(path))
    if as_json:
        print_json(found)
    elif not found["deployments"]:
        click.echo("nothing is deployed here; first: trimtab run")
    for deployment in () if as_json else found["deployments"]:
        _show(deployment)


def _show(deployment: dict[str, Any]) -> None:
    live, idle = deployment["live"], deployment["idle"]
    matched = f"{_share(live['exact_match'])}, its base {_share(live['base_exact_match'])}"
    rows = [
        ("live", f"version {short(live['model_version'])} since {moment(live['since'])}"),
        ("why", live["why"]),
        ("exact match", matched),
        ("other slot", f"version {short(idle)}" if idle else "empty"),
        ("spent", _spent(deployment["spent_usd"])),
        *_slo(deployment["slo"]),
    ]
    print_facts(deployment["name"], rows)


def _spent(spent: dict[str, float]) -> str:
    kinds = [f"${usd:,.4g} {kind}" for kind, usd in spent.items() if usd]
    return ", ".join(kinds) or "nothing"


def _slo(slo: dict[str, Any]) -> list[tuple[str, str]]:
    target = slo["target"]
    p95, availability = f"under {target['p95_ms']:g} ms", _share(target["availability"])
    if not slo["requests"]:
        return [("requests", f"none yet; the SLO is p95 {p95}, availability {availability}")]
    return [
        ("requests", str(slo["requests"])),
        ("p50", _ms(slo["p50_ms"])),
        ("p95", f"{_ms(slo['p95_ms'])}, target {p95}: {slo['latency']}"),
        (
            "availability",
            f"{_share(slo['available'])}, target {availability}: {slo['availability']}",
        ),
    ]


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value * 100:.4g} %"


def _ms(value: float | None) -> str:
    return "no answer" if value is None else f"{value:.0f} ms"
