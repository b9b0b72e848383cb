"""The demo: run the loop, then ask base and adapter the same new ticket over HTTP.

It uses nothing that a user could not type: `trimtab run`, `trimtab keys create`, `trimtab serve`
and two HTTP requests. The server is stopped at the end, and no process stays behind.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

HERE = Path(__file__).resolve().parent
PROJECT = HERE / "trimtab.yaml"
TICKET = (
    "My front door keypad went dead and I am stuck outside in the rain with two kids right now."
)
NOT_PROMOTED = 3

console = Console(highlight=False)


def main() -> int:
    started = time.monotonic()
    ran = trimtab("run", str(PROJECT))
    if ran.returncode not in (0, NOT_PROMOTED):
        return ran.returncode
    with served() as address:
        show_answers(address, new_key())
    console.print(f"\nThe demo took {time.monotonic() - started:.0f} s. Go on with:\n")
    console.print(next_steps(), soft_wrap=True)
    return ran.returncode


def trimtab(*arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trimtab", *arguments]
    return subprocess.run(command, text=True, stdout=subprocess.PIPE if capture else None)


def new_key() -> str:
    created = trimtab("keys", "create", "demo", str(PROJECT), "--json", capture=True)
    created.check_returncode()
    return str(json.loads(created.stdout)["key"])


@contextmanager
def served() -> Iterator[str]:
    """`trimtab serve` on a free port, for as long as the block runs; gives its address."""
    command = [sys.executable, "-m", "trimtab", "serve", str(PROJECT), "--port", "0", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            sys.exit(server.wait() or 1)
        yield str(json.loads(line)["address"])
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def show_answers(address: str, key: str) -> None:
    """The same new ticket to the deployment and to its base, side by side."""
    with httpx.Client(base_url=address, timeout=120, trust_env=False) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        deployment = client.get("/v1/models").raise_for_status().json()["models"][0]
        base = base_version()
        table = Table(title="One new ticket, asked over HTTP", title_style="bold", show_lines=True)
        table.add_column("who answered")
        table.add_column("answer", ratio=1)
        table.add_column("ms", justify="right")
        for model in (base, deployment["name"]):
            answer = client.post("/v1/generate", json={"model": model, "prompt": TICKET})
            fields = answer.raise_for_status().json()
            who = f"{fields['tier']}\n[dim]{fields['model_version'][:12]}[/]"
            table.add_row(who, fields["text"].strip(), f"{fields['latency_ms']:.0f}")
    console.print(Panel(TICKET, title="ticket", title_align="left"))
    console.print(table)


def base_version() -> str:
    """The hash of the version that is the base alone."""
    listed = trimtab("models", str(PROJECT), "--json", capture=True)
    listed.check_returncode()
    models = json.loads(listed.stdout)["models"]
    return next(str(model["version"]) for model in models if model["adapter"] is None)


def next_steps() -> str:
    project = os.path.relpath(PROJECT)
    return (
        f"  .venv/bin/trimtab keys create me {project}      # prints a key\n"
        f"  .venv/bin/trimtab serve {project} --port 8080   # until Ctrl-C\n"
        "  curl -s localhost:8080/v1/generate -H 'Authorization: Bearer KEY' "
        "-H 'Content-Type: application/json' "
        '-d \'{"model": "support-desk", "prompt": "My thermostat is stuck at 12 degrees."}\''
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)  # `trimtab run` has said how to go on
