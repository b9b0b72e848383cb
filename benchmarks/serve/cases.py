"""The cases of the benchmark: what is asked of a system, and the figures that come of it."""

import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from benchmarks.serve.load import Answer, Ask, Face, Result, ask, closed, opened
from benchmarks.serve.material import Prompts
from benchmarks.serve.systems import System

TOKENS = 64
PREFIX, PREFIX_TOKENS = 256, 8
# A cell ends when its requests are answered; what is not by then is given up, and counted.
CELL_S = float(os.environ.get("TRIMTAB_BENCH_CELL_S", "60"))
# Requests of a cell by its concurrency.
SIZES = {1: 2, 4: 4, 16: 16, 32: 32}
# Seconds of load at each rate of the open loop.
OPEN_S = float(os.environ.get("TRIMTAB_BENCH_OPEN_S", "20"))
FIRST_RATE, LEAST_RATE, RUNG = 0.6, 0.1, 4 / 3

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Measured:
    case: str
    figures: Figures
    """Empty where a request failed; `reason` says so."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """What is measured of a system before the next one's turn: concurrencies of the base alone, of
    adapters mixed, and of the shared beginning. Cells have `times` as many requests as usual.
    """

    base: Sequence[int]
    adapters: Sequence[int] = ()
    prefix: Sequence[int] = ()
    times: int = 1


async def measure(system: System, prompts: Prompts, turn: Turn) -> AsyncIterator[Measured]:
    await ask(system.base, prompts.text(), 4, 0.0)
    for concurrency in turn.base:
        asks = [(system.base, prompts.text()) for _ in range(turn.times * SIZES[concurrency])]
        yield told(f"base/c{concurrency}", await closed(asks, concurrency, TOKENS, CELL_S))
    adapted = turn.adapters if system.adapters else ()
    if adapted:
        # Each is loaded before it is measured.
        warm = [(face, prompts.text(20, 20)) for face in system.adapters]
        await closed(warm, 8, 1, CELL_S)
    for concurrency in adapted:
        asks = [
            (system.adapters[number % len(system.adapters)], prompts.text())
            for number in range(turn.times * SIZES[concurrency])
        ]
        yield told(f"adapters8/c{concurrency}", await closed(asks, concurrency, TOKENS, CELL_S))
    for concurrency in turn.prefix:
        async for each in prefix(system, prompts, concurrency, turn.times):
            yield each


async def prefix(
    system: System, prompts: Prompts, concurrency: int, times: int
) -> AsyncIterator[Measured]:
    """A beginning of 256 tokens that all requests of a cell share: unknown to the system, and
    known; 8 tokens are asked for. Cold, every request has a beginning of its own.
    """
    suffix = "" if concurrency == 1 else f"-c{concurrency}"
    count = times * (2 if concurrency == 1 else concurrency)
    own = [(system.base, prompts.text(PREFIX, PREFIX) + _end(prompts)) for _ in range(count)]
    cold = await closed(own, concurrency, PREFIX_TOKENS, CELL_S)
    yield told(f"prefix256/cold{suffix}", cold)
    shared = prompts.text(PREFIX, PREFIX)
    await ask(system.base, shared + _end(prompts), PREFIX_TOKENS, 0.0)
    known = [(system.base, shared + _end(prompts)) for _ in range(count)]
    warm = await closed(known, concurrency, PREFIX_TOKENS, CELL_S)
    yield told(f"prefix256/warm{suffix}", warm)


def _end(prompts: Prompts) -> str:
    return "\n\n" + prompts.text(24, 48, number=False)


def told(case: str, result: Result) -> Measured:
    whole = result.whole
    if not whole:
        states = sorted({answer.status for answer in result.answers})
        return Measured(
            case,
            {},
            f"no request was answered in full within {result.seconds:.0f} s; HTTP status {states}",
        )
    figures = {
        "output_tok_s": result.tokens_s,
        "ttft_p50_ms": quantile([a.ttft for a in whole], 0.5) * 1000,
        "ttft_p95_ms": quantile([a.ttft for a in whole], 0.95) * 1000,
        "latency_p50_ms": quantile([a.latency for a in whole], 0.5) * 1000,
        "latency_p95_ms": quantile([a.latency for a in whole], 0.95) * 1000,
    }
    if gaps := [gap for answer in whole for gap in answer.gaps]:
        figures["gap_p95_ms"] = quantile(gaps, 0.95) * 1000
        figures["gap_most_ms"] = max(gaps) * 1000
    if len(whole) < len(result.answers):
        figures["failed"] = float(len(result.answers) - len(whole))
    return Measured(case, figures)


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that a share of `q` does not exceed."""
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]


def holds(answers: Sequence[Answer], slo_s: float) -> bool:
    """Whether all were answered and p95 is under the target."""
    if any(answer.status != 200 or not answer.tokens for answer in answers):
        return False
    return quantile([answer.latency for answer in answers], 0.95) < slo_s


async def goodput(
    system: System,
    prompts: Prompts,
    slo_s: float,
    first: float = FIRST_RATE,
    rung: float = RUNG,
    seconds: float = OPEN_S,
) -> float:
    """The highest rate, requests/s, at which p95 holds for so many `seconds` of an open loop, as
    `highest` looks for it; 0 where none does.
    """
    alone = await closed([(system.base, prompts.text(180, 180))] * 1, 1, TOKENS, CELL_S)
    if not holds(alone.answers, slo_s):
        return 0.0

    async def held(rate: float) -> bool:
        result = await opened(made(system.base, prompts), rate, seconds, TOKENS, 2 * slo_s)
        return holds(result.answers, slo_s)

    return await highest(held, first, rung)


async def highest(held: Callable[[float], Awaitable[bool]], first: float, rung: float) -> float:
    """The highest of a ladder of rates that holds, and of the one half way to the next; 0 where
    none does.

    A rung is `rung` times the one below. From the `first` one it goes up to the first that fails,
    or down to the first that holds.
    """
    rate = first
    if await held(rate):
        while await held(rate * rung):
            rate *= rung
    else:
        while not await held(rate := rate / rung):
            if rate <= LEAST_RATE:
                return 0.0
    # Two rungs are further apart than what is to be told from each other.
    between = rate * math.sqrt(rung)
    return between if await held(between) else rate


async def overloaded(face: Face, prompts: Prompts, rate: float, slo_s: float) -> Figures:
    """At a rate beyond what holds, asked of a deployment whose deadline is the target: which share
    was shed, how soon, and how the admitted fared. One that was admitted and then given up is late.
    """
    seconds = max(OPEN_S, 4 * slo_s)
    result = await opened(made(face, prompts), rate, seconds, TOKENS, 3 * slo_s)
    shed = [answer for answer in result.answers if answer.status in (429, 503)]
    admitted = [answer for answer in result.answers if answer.status not in (429, 503)]
    figures = {"shed": len(shed) / len(result.answers)}
    if shed:
        figures["shed_after_p95_ms"] = quantile([a.latency for a in shed], 0.95) * 1000
    if admitted:
        figures["latency_p95_ms"] = quantile([a.latency for a in admitted], 0.95) * 1000
        figures["held"] = sum(a.latency < slo_s and a.tokens > 0 for a in admitted) / len(admitted)
    figures["requests_s"] = len(result.whole) / result.seconds
    return figures


def made(face: Face, prompts: Prompts) -> Callable[[], Ask]:
    return lambda: (face, prompts.text(180, 180))
