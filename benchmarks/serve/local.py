"""Tokens a second of the engine in this process: scheduling and sampling, and no HTTP.

    python -m benchmarks.serve.local [--base FOLDER | --shape NAME]

Prompts of 180 random tokens, 64 new ones, so many tasks that each ask for one answer after the
other. Nothing is written: NOTES.md keeps what was learned from it.
"""

import argparse
import asyncio
import random
import time
from contextlib import ExitStack
from itertools import count
from pathlib import Path

from benchmarks.serve import shapes
from trimtab.engine.local import LocalEngine
from trimtab.inference import GenerateRequest, Sampling, VersionFiles, complete

PROMPT, TOKENS = 180, 64
GREEDY, DRAWN = Sampling(max_tokens=TOKENS), Sampling(TOKENS, temperature=0.8, top_p=0.95)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path)
    parser.add_argument("--shape", choices=shapes.SHAPES)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        base = shapes.chosen(arguments.base, arguments.shape, stack)
        began = time.perf_counter()
        engine = LocalEngine(base)
        print(f"ready {time.perf_counter() - began:.2f} s", flush=True)
        try:
            asyncio.run(measure(engine, base))
        finally:
            engine.close()


async def measure(engine: LocalEngine, base: Path) -> None:
    await engine.load(VersionFiles("base", base, None, base, ()))
    source, numbers = random.Random(0), count(1)

    async def rate(concurrency: int, requests: int, sampling: Sampling) -> float:
        left = requests
        began = time.perf_counter()

        async def asks() -> None:
            nonlocal left
            while left:
                left -= 1
                prompt = tuple(source.randrange(3, 8000) for _ in range(PROMPT))
                asked = GenerateRequest("base", prompt, sampling, str(next(numbers)))
                await complete(engine, asked)

        await asyncio.gather(*(asks() for _ in range(concurrency)))
        return requests * TOKENS / (time.perf_counter() - began)

    for concurrency in (1, 4, 16, 32):
        # What is compiled or captured at its first use, is so before.
        await rate(concurrency, concurrency, GREEDY)
    for concurrency in (1, 4, 16, 32, 128):
        found = await rate(concurrency, 4 * concurrency, GREEDY)
        print(f"greedy c{concurrency} {found:.0f} tok/s", flush=True)
    print(f"drawn c16 {await rate(16, 16, DRAWN):.0f} tok/s")


if __name__ == "__main__":
    main()
