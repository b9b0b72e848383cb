"""Every suite once through the real engine, on a base of random weights."""

import asyncio
from pathlib import Path

import pytest

from trimtab.evaluate.evidence import gather
from trimtab.evaluate.gate import decide
from trimtab.evaluate.holdout import run_holdout
from trimtab.evaluate.items import Item
from trimtab.evaluate.performance import run_performance
from trimtab.evaluate.safety import run_safety
from trimtab.inference import Message, VersionFiles
from trimtab.text.chat import ChatFormat

ITEMS = [
    Item(f"{n:064x}", (Message("user", f"Ticket {n}: the bill is wrong."),), '{"intent": "bill"}')
    for n in range(10)
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def test_a_version_against_itself_is_never_better(base: Path, chat_format: ChatFormat) -> None:
    import torch

    from trimtab.engine.local import LocalEngine

    engine = LocalEngine(base, torch.float32, torch.device("cpu"))
    version = "a" * 64

    async def suites() -> None:
        await engine.load(VersionFiles(version, base, None, base, chat_format.stop_tokens()))
        holdout = await run_holdout(engine, version, chat_format, ITEMS, ["intent"], 8)
        safety = await run_safety(engine, version, chat_format, 8)
        performance = await run_performance(engine, version, chat_format, ITEMS, 8, requests=3)
        assert all(item.log_likelihood < 0 for item in holdout.items)
        assert len({item.prompt for item in holdout.items}) == len(ITEMS)
        assert (safety.summary["items"], performance.summary["items"]) == (24, 3)
        for measure in ("exact_match", "log_likelihood"):
            gate = decide(
                gather(
                    holdout,
                    holdout,
                    measure=measure,
                    safety=(safety, safety),
                    performance=performance,
                    p95_ms=60_000,
                )
            )
            assert gate.findings.holdout.difference == 0
            assert gate.verdict in ("not worse", "cannot tell")

    asyncio.run(suites())
    engine.close()
