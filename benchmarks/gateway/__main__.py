"""What a gateway adds: Trimtab beside LiteLLM's proxy, into docs/benchmarks/gateway.json.

    make bench-gateway

Both stand before one fake upstream on the same cores, with the same number of worker processes and
interleaved rounds, each begun once both are at rest. Trimtab has everything on: keys, rate limits,
budgets on three levels, ledger, request log. LiteLLM has its master key; its virtual keys, budgets
and spend log need PostgreSQL and a Prisma engine that is downloaded at run time, so they are off,
which is in its favour.

* rps, events_s: closed loop, the upstream answers at once.
* added_*: open loop at a fixed rate, the upstream takes 100 ms; a quantile through the gateway less
  the same quantile of direct calls to the upstream in the same round. Latencies count from the
  moment a request was due. Null where not all were answered, at this rate or a lower one.
* rss_mb: all processes of a gateway after its last request; `requests` says after how many. Trimtab
  answers all that it is asked for, its peer as many as fit into a time.

TRIMTAB_LITELLM names a LiteLLM environment; else one is made beside this file's repository.
TRIMTAB_BENCH_SECONDS, _ROUNDS, _REQUESTS and _FILL_S (the peer's time) make a run shorter.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
import uvloop
from tests.gateway.world import build_world
from tests.tiny import build_tokenizer

from benchmarks.gateway.load import Result, Target, closed, opened, request
from benchmarks.gateway.page import page
from benchmarks.machine import ROOT, head
from trimtab.gateway import keys

OUT = ROOT / "docs" / "benchmarks" / "gateway.json"
LITELLM = "litellm[proxy]==1.106.2"
WORKERS = 2
ROUNDS = int(os.environ.get("TRIMTAB_BENCH_ROUNDS", "3"))
SECONDS = float(os.environ.get("TRIMTAB_BENCH_SECONDS", "5"))
CONCURRENCY = (1, 8, 32, 128)
RATES = (100, 250, 500, 1000)
REQUESTS = int(os.environ.get("TRIMTAB_BENCH_REQUESTS", "100000"))
FILL_S = float(os.environ.get("TRIMTAB_BENCH_FILL_S", "600"))
CHAT = "/v1/chat/completions"
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass
class System:
    name: str
    port: int
    key: str
    processes: list[psutil.Process]
    answered: int = 0
    figures: dict[tuple[str, str], list[float | None]] = field(default_factory=dict)

    def target(self, *, stream: bool = False, delay_ms: int = 0) -> Target:
        """The same bytes for everybody, but for the key."""
        body: dict[str, Any] = {
            "model": "desk",
            "messages": [{"role": "user", "content": f"My invoice is wrong delay={delay_ms}"}],
            "max_tokens": 16,
            "seed": delay_ms,
        }
        if stream:
            body["stream"] = True
        return Target("127.0.0.1", self.port, request(CHAT, self.key, json.dumps(body).encode()))

    def note(self, case: str, figure: str, value: float | None) -> None:
        self.figures.setdefault((case, figure), []).append(value)

    def rss_mb(self) -> float:
        return sum(process.memory_info().rss for process in self.family()) / 1e6

    def cpu_s(self) -> float:
        times = [process.cpu_times() for process in self.family()]
        return sum(time.user + time.system for time in times)

    def family(self) -> list[psutil.Process]:
        found = {p.pid: p for p in self.processes if p.is_running()}
        for process in list(found.values()):
            found |= {child.pid: child for child in process.children(recursive=True)}
        return list(found.values())


def main() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        direct = System("direct", free_port(), "none", [])
        stack.enter_context(upstream(direct.port, folder / "engine.sock"))
        ours = stack.enter_context(trimtab(folder))
        systems = [ours, stack.enter_context(litellm(folder, direct.port))]
        for number in range(ROUNDS):
            for system in systems if number % 2 == 0 else reversed(systems):
                print(f"round {number + 1} of {ROUNDS}: {system.name}", flush=True)
                await_rest(systems)
                uvloop.run(measure(system, direct))
        for system in systems:
            await_rest(systems)
            uvloop.run(fill(system, float("inf") if system is ours else FILL_S))
    rows = [row for system in systems for row in rows_of(system)]
    found = {**head(), "workers": WORKERS, "rows": rows}
    OUT.write_text(json.dumps(found, indent=1) + "\n")
    OUT.with_suffix(".md").write_text(page(found))
    print(f"wrote {OUT} and gateway.md")


async def measure(system: System, direct: System) -> None:
    for target in (system.target(), system.target(stream=True), direct.target()):
        once = await closed(target, 1, 30.0, 1)
        if once.failed or not once.latencies:
            raise RuntimeError(f"{system.name} or its upstream does not answer")
    await closed(system.target(), 8, 1.0)
    for concurrency in CONCURRENCY:
        result = await closed(system.target(), concurrency, SECONDS)
        system.answered += len(result.latencies)
        system.note(f"json/c{concurrency}", "rps", None if result.failed else result.rps)
    result = await closed(system.target(stream=True), 32, SECONDS)
    system.answered += len(result.latencies)
    events = result.events / result.seconds
    system.note("sse/c32", "events_s", None if result.failed else events)
    held = True
    for rate in RATES:
        added: dict[str, float | None] = dict.fromkeys(QUANTILES)
        if held:
            base = await opened(direct.target(delay_ms=100), rate, SECONDS)
            result = await opened(system.target(delay_ms=100), rate, SECONDS)
            system.answered += len(result.latencies)
            held = not result.failed and not base.failed
        if held:
            for name, q in QUANTILES.items():
                added[name] = (quantile(result, q) - quantile(base, q)) * 1000
        for name, value in added.items():
            system.note(f"open/r{rate}", f"added_{name}_ms", value)


async def fill(system: System, seconds: float) -> None:
    """As many requests as its memory is measured after, or what fits into so many seconds."""
    before = system.rss_mb()
    result = await closed(system.target(), 32, seconds, REQUESTS - system.answered)
    system.answered += len(result.latencies)
    system.note("json/c32", "rss_mb", system.rss_mb())
    system.note("json/c32", "rss_grown_mb", system.rss_mb() - before)
    system.note("json/c32", "requests", float(system.answered))


def await_rest(systems: list[System]) -> None:
    """Until nobody works any more on what was asked before: a gateway goes on with what its clients
    gave up."""
    deadline = time.monotonic() + 120
    before = -1.0
    while time.monotonic() < deadline:
        now = sum(system.cpu_s() for system in systems)
        if before >= 0 and now - before < 0.2:
            return
        before = now
        time.sleep(1.0)
    raise TimeoutError("the gateways were not at rest within 120 s")


def quantile(result: Result, q: float) -> float:
    found = sorted(result.latencies)
    return found[min(len(found) - 1, int(q * len(found)))]


def rows_of(system: System) -> Iterator[dict[str, Any]]:
    units = {"rps": "requests/s", "events_s": "events/s", "requests": "requests"}
    for (case, figure), values in system.figures.items():
        good = [value for value in values if value is not None]
        row: dict[str, Any] = {
            "system": system.name,
            "case": case,
            "figure": figure,
            "value": round(median(good), 3) if len(good) == len(values) else None,
            "unit": units.get(figure, "MB" if figure.startswith("rss") else "ms"),
            "repetitions": [None if value is None else round(value, 3) for value in values],
            "precision": "n/a",
        }
        if row["value"] is None:
            row["reason"] = "not every request was answered within 30 s"
        yield row


@contextmanager
def started(command: list[str], ready: str | None, **more: Any) -> Iterator[psutil.Process]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, **more)
    try:
        if ready is not None:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == ready
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def upstream(port: int, path: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.gateway.upstream", str(port), str(path)]
    with started(command, "ready"):
        yield


@contextmanager
def trimtab(folder: Path) -> Iterator[System]:
    world = build_world(folder, build_tokenizer(folder))
    with world.database.transaction() as connection:
        from trimtab.ledger.accounts import set_budget

        most = keys.Limits(1_000_000_000, 1_000_000_000)
        key = keys.create(connection, "bench", "bench", "1000000", limits=most).key
        set_budget(connection, "owner", "bench", "month", 10**15)
        set_budget(connection, "project", "support-desk", "day", 10**15)
    url = world.database.url.render_as_string()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener, ExitStack() as stack:
        fd = listener.fileno()
        command = [sys.executable, "-m", "benchmarks.gateway.server", url, str(fd)]
        command.append(str(folder / "engine.sock"))
        processes = [
            stack.enter_context(started(command, "started", pass_fds=(fd,))) for _ in range(WORKERS)
        ]
        yield System("trimtab", listener.getsockname()[1], key, processes)
    world.database.close()


@contextmanager
def litellm(folder: Path, upstream_port: int) -> Iterator[System]:
    binary = environment() / "bin" / "litellm"
    port, key = free_port(), "sk-bench"
    config = {
        "model_list": [
            {
                "model_name": "desk",
                "litellm_params": {
                    "model": "openai/fake",
                    "api_base": f"http://127.0.0.1:{upstream_port}/v1",
                    "api_key": "none",
                },
            }
        ],
        "general_settings": {"master_key": key},
        "litellm_settings": {"num_retries": 0},
    }
    file = folder / "litellm.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    command = [str(binary), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--num_workers", str(WORKERS)]
    quiet = {**os.environ, "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    quiet.pop("PYTHONPATH", None)
    with (folder / "litellm.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=quiet)
        try:
            await_health(port)
            yield System("litellm", port, key, [psutil.Process(process.pid)])
        finally:
            family = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            process.wait(30)
            for left in family:
                if left.is_running():
                    left.kill()


def environment() -> Path:
    """LiteLLM in an environment of its own: its pins and ours do not meet."""
    named = os.environ.get("TRIMTAB_LITELLM")
    folder = Path(named) if named else ROOT / "build" / "litellm"
    if not (folder / "bin" / "litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "pip"), "install", "-q", LITELLM], check=True)
    return folder


def await_health(port: int) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health/liveliness", timeout=2).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise TimeoutError("LiteLLM did not start within 180 s")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
