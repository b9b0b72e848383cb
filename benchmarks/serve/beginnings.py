"""First tokens behind a known beginning, by how many of its tokens stand in a block that is not
full, without HTTP.

    python -m benchmarks.serve.beginnings [--base FOLDER | --shape NAME] [--repeat N]

A beginning of 256 tokens and so many more is known, then a prompt goes on from it with 36 random
tokens of its own, alone or eight at once. Prints milliseconds from asking to the first token (the
least of N alone, by the clock and by the processor, which neighbours change less; the median of
eight), and how many tokens the engine found. Nothing is written: NOTES.md keeps what was learned.
"""

import argparse
import asyncio
import random
import statistics
import time
from contextlib import ExitStack, aclosing
from itertools import count
from pathlib import Path

from benchmarks.serve import shapes
from trimtab.engine.local import LocalEngine
from trimtab.inference import GenerateRequest, Sampling, VersionFiles

SHARED, OWN, EIGHT = 256, 36, 8
MORE = (0, 4, 8, 12, 15)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path)
    parser.add_argument("--shape", choices=shapes.SHAPES)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        base = shapes.chosen(arguments.base, arguments.shape, stack)
        engine = LocalEngine(base)
        try:
            asyncio.run(measure(engine, base, arguments.repeat))
        finally:
            engine.close()


async def measure(engine: LocalEngine, base: Path, repeat: int) -> None:
    await engine.load(VersionFiles("base", base, None, base, ()))
    source, numbers = random.Random(0), count(1)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(source.randrange(3, 8000) for _ in range(length))

    async def first(prompt: tuple[int, ...]) -> tuple[float, float, int]:
        """Milliseconds to the first token by the clock and by the processor; the tokens found."""
        asked = GenerateRequest("base", prompt, Sampling(max_tokens=8), str(next(numbers)))
        began, busy = time.perf_counter(), time.process_time()
        came, worked, cached = 0.0, 0.0, 0
        async with aclosing(engine.generate(asked)) as chunks:
            async for chunk in chunks:
                came = came or time.perf_counter() - began
                worked = worked or time.process_time() - busy
                cached = chunk.usage.cached if chunk.usage is not None else cached
        return came * 1000, worked * 1000, cached

    for more in MORE:
        known = tokens(SHARED + more)
        await first((*known, *tokens(OWN)))
        alone = [await first((*known, *tokens(OWN))) for _ in range(repeat)]
        at_once = await asyncio.gather(*(first((*known, *tokens(OWN))) for _ in range(EIGHT)))
        print(
            f"{SHARED} + {more:2}: alone {min(ms for ms, _, _ in alone):6.0f} ms, processor "
            f"{min(ms for _, ms, _ in alone):6.0f} ms, eight at once "
            f"{statistics.median(ms for ms, _, _ in at_once):6.0f} ms, found {alone[-1][2]}",
            flush=True,
        )


if __name__ == "__main__":
    main()
