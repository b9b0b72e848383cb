"""How long an engine takes from the start of its process to its first token.

    python -m benchmarks.serve.start [--base FOLDER] [--repeat N]

With compiled kernels and the file of weights in the page cache, as after a restart. Prints seconds
a start, and what of them importing torch alone takes. Nothing is written: NOTES.md keeps it.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.serve.material import base_folder
from trimtab.engine.wire.remote import RemoteEngine
from trimtab.inference import GenerateRequest, Sampling, VersionFiles, complete


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    base = arguments.base or base_folder()
    for _ in range(arguments.repeat):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        torch_s = time.perf_counter() - began
        ready_s, first_s = start(base)
        print(f"torch {torch_s:.2f} s, ready {ready_s:.2f} s, first token {first_s:.2f} s")


def start(base: Path) -> tuple[float, float]:
    """Seconds until an engine says that it is ready, and until a version on it has answered."""
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "engine.sock"
        command = ["-m", "trimtab.engine.process", "--socket", str(socket), "--base", str(base)]
        began = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            ready_s = time.perf_counter() - began
            asyncio.run(one_token(socket, base))
            first_s = time.perf_counter() - began
            process.terminate()
    return ready_s, first_s


async def one_token(socket: Path, base: Path) -> None:
    engine = RemoteEngine(socket)
    await engine.load(VersionFiles("base", base, None, base, ()))
    await complete(engine, GenerateRequest("base", (1, 2, 3), Sampling(max_tokens=1), "1"))


if __name__ == "__main__":
    main()
