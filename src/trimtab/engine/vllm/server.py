"""A vLLM server started as a child, from an environment of its own: vLLM pins another torch.

It listens on the loopback alone and wants a key that is made for it. Knows nothing of its routes.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from trimtab.child import Child, foreign
from trimtab.engine.processor import BF16, cpu_flags
from trimtab.engine.vllm.engine import VllmEngine
from trimtab.engine.vllm.routes import Server
from trimtab.errors import EngineUnavailable, UserError
from trimtab.registry.tensors import opened
from trimtab.registry.weights import weight_files

MAX_RANK = 64
"""Of an adapter; vLLM sets aside room for it in every layer."""
MAX_LORAS, MAX_CPU_LORAS = 8, 64
"""Adapters in one batch, and adapters in memory; the others are read from disk again."""
START_S, STOP_S, POLL_S = 600.0, 15.0, 0.5
KEY = "TRIMTAB_VLLM_KEY"
"""The variable that holds the API key of a server that was started by somebody else."""


@asynccontextmanager
async def given(url: str, base: Path) -> AsyncIterator[VllmEngine]:
    """The engine of a server that runs already. Raises EngineError and BaseError."""
    # Clients of OpenAI's API are told to add it.
    root = url.rstrip("/").removesuffix("/v1")
    engine = VllmEngine(Server(root, os.environ.get(KEY, "")), base)
    try:
        await engine.open()
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def started(environment: Path, base: Path) -> AsyncIterator[VllmEngine]:
    """The engine of a server that is started and stopped with it.

    Raises EngineUnavailable where it does not come up, `alive` of the engine tells when it died.
    """
    child, server = start(environment, base)
    engine = VllmEngine(server, base, alive=lambda: child.alive)
    try:
        await _until_open(engine)
        yield engine
    finally:
        await engine.close()
        child.stop(STOP_S)


async def _until_open(engine: VllmEngine) -> None:
    deadline = asyncio.get_running_loop().time() + START_S
    while True:
        try:
            return await engine.open()
        except EngineUnavailable as error:
            if not engine.alive():
                raise EngineUnavailable(
                    "vLLM ended before it answered", hint="its words are above"
                ) from error
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(POLL_S)


def start(environment: Path, base: Path) -> tuple[Child, Server]:
    """The server of a base, which needs a minute before it answers.

    `environment` is the folder of a virtual environment with vLLM. Raises UserError without one.
    """
    python = environment / "bin" / "python"
    if not python.exists():
        raise UserError(
            f"{environment} is no virtual environment: it has no bin/python",
            hint="python -m venv it, install vllm into it, and name it as serve.vllm_env",
        )
    port, key = _free_port(), secrets.token_hex(16)
    cuda = Path("/proc/driver/nvidia/version").exists()
    dtype = "bfloat16" if cuda or cpu_flags() & BF16 else "float32"
    # Modules of this program are not those of that environment.
    command = ["env", "-u", "PYTHONPATH", str(python), *_arguments(base, port, dtype)]
    if not cuda:
        # Its first start would compile for minutes what is then used for one base.
        command.append("--enforce-eager")
    child = Child(f"vllm {base.name}", foreign(command), environment=_environment(python, key))
    child.start()
    device = "cuda" if cuda else "cpu"
    url = f"http://127.0.0.1:{port}"
    return child, Server(url, key, device, dtype, priority=True, max_rank=MAX_RANK)


def _arguments(base: Path, port: int, dtype: str) -> list[str]:
    return [
        *("-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(base), "--served-model-name", base.name),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", dtype, "--generation-config", "vllm"),
        *("--scheduling-policy", "priority", "--enable-prompt-tokens-details"),
        *("--enable-lora", "--max-lora-rank", str(MAX_RANK)),
        *("--max-loras", str(MAX_LORAS), "--max-cpu-loras", str(MAX_CPU_LORAS)),
        # Beside an adapter on the output layer vLLM 0.32 scores wrongly shaped rows on a CPU, and
        # its engine dies of it: every layer but that one takes an adapter.
        *("--lora-target-modules", *_layers(base)),
    ]


def _environment(python: Path, key: str) -> dict[str, str | None]:
    """What is set for the server beside what is inherited."""
    cores = len(os.sched_getaffinity(0))
    settings: dict[str, str | None] = {
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "VLLM_API_KEY": key,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    defaults = {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # It keeps a core for itself otherwise, and of two cores that is half.
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{cores - 1}",
    }
    return settings | {k: v for k, v in defaults.items() if k not in os.environ}


def _layers(base: Path) -> list[str]:
    """The last names of the base's linear layers, the output layer apart."""
    found = set()
    for path in weight_files(base):
        with opened(path) as (tensors, _):
            for tensor in tensors:
                name, _, leaf = tensor.name.rpartition(".")
                layer = name.rpartition(".")[2]
                if leaf == "weight" and len(tensor.shape) == 2 and any(c.isdigit() for c in name):
                    found.add(layer)
    return sorted(found)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
