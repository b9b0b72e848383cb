"""`trimtab serve`: answer over HTTP."""

import json
from pathlib import Path

import click

from trimtab.cli.options import (
    home_option,
    open_home,
    project_argument,
    project_if_any,
    verbose_option,
)
from trimtab.cli.screen import Screen
from trimtab.store.home import Home


@click.command("serve")
@project_argument
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535))
@click.option("--gateways", default=1, show_default=True, type=click.IntRange(1, 64))
@click.option(
    "--encoder",
    help="Also make embeddings, by this one: all-minilm-l6-v2 or a folder. The home keeps it.",
)
@click.option("--json", "as_json", is_flag=True, help="Say that it is ready as one JSON line.")
@home_option
@verbose_option
def command(
    path: Path | None,
    host: str,
    port: int,
    gateways: int,
    encoder: str | None,
    as_json: bool,
    home: Path | None,
) -> None:
    """Serve every deployment of the home until SIGTERM or Ctrl-C. Port 0 takes a free one."""
    opened = open_home(home, path)

    from trimtab.flows.supervisor import Supervisor

    if encoder is not None:
        _adopt(opened, encoder)

    def on_ready(address: str) -> None:
        line = json.dumps({"address": address}) if as_json else f"ready at {address}"
        click.echo(line)

    def on_event(line: str) -> None:
        click.echo(f"trimtab: {line}", err=True)

    Supervisor(opened, host, port, gateways, project_if_any(path)).run(on_ready, on_event)


def _adopt(home: Home, name: str) -> None:
    """Register an encoder; its download may take a while, and is drawn."""
    from trimtab.flows.encoders import adopt

    database = home.database()
    with Screen() as screen:
        adopt(database, name, screen)
    database.close()
