"""The whole engine on a GPU, at SmolLM2's widths with random weights, beside transformers and PEFT
on the same GPU.

Triton builds some ten kernels for each number format, see test_cuda_builds: a few seconds of one
core. What else takes time is by the layer (graphs, the reference and its adapters), so there are as
many as it takes to show that none is mistaken for another.
"""

import asyncio
import json
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.paths import CUDA, Kept, answer, ask, items, run, score
from tests.tiny import build_adapter, build_base
from trimtab.engine.continuous.path import ContinuousPath
from trimtab.engine.continuous.schedule import Schedule
from trimtab.engine.dtype import pick_device, pick_dtype
from trimtab.engine.jobs import GenerateJob
from trimtab.engine.llama.family import read_shape
from trimtab.engine.local import LocalEngine
from trimtab.engine.sampling.drawn import Drawn
from trimtab.engine.sampling.sampler import Sampler, choose
from trimtab.inference import (
    Completion,
    GenerateRequest,
    Sampling,
    ScoreRequest,
    VersionFiles,
    complete,
)

pytestmark = pytest.mark.skipif(not CUDA, reason="no NVIDIA GPU, or no Triton, on this machine")

WIDE, EACH, MEAN = 1e-3, 0.5, 0.1
"""Nats: in float32; of a token and on the average in bfloat16."""
NAMES = ("base", *(f"v{i}" for i in range(8)))
SIZES: dict[str, int] = {"layers": 4, "hidden": 576, "heads": 9, "kv_heads": 3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Layers of SmolLM2-135M's size, and a small vocabulary; adapters of ranks 1 to 64."""
    folder = tmp_path_factory.mktemp("cuda")
    base = build_base(folder / "base", context=2048, spread=0.03, **SIZES)
    found = {"base": base}
    for i, name in enumerate(NAMES[1:]):
        rank = (1, 4, 8, 16, 16, 32, 40, 64)[i]
        found[name] = build_adapter(folder / name, base, i, rank, 2 * rank, spread=0.05)
    return found


class Reference:
    """transformers and PEFT on the GPU, one row at a time."""

    def __init__(self, folders: dict[str, Path], dtype: torch.dtype) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        model: Any = AutoModelForCausalLM.from_pretrained(folders["base"], dtype=dtype)
        model = PeftModel.from_pretrained(model, folders["v0"], "v0")
        for name in NAMES[2:]:
            model.load_adapter(folders[name], name)
        # In bfloat16 PEFT keeps adapters in float32.
        self._model = model.to("cuda", dtype).eval()

    def score(self, name: str, prompt: Sequence[int], end: Sequence[int]) -> list[float]:
        if name == "base":
            with self._model.disable_adapter():
                return self._score(prompt, end)
        self._model.set_adapter(name)
        return self._score(prompt, end)

    def _score(self, prompt: Sequence[int], end: Sequence[int]) -> list[float]:
        ids = torch.tensor([[*prompt, *end]], device="cuda")
        with torch.inference_mode():
            logits = self._model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
        chosen = torch.tensor(end, device="cuda").unsqueeze(1)
        told: list[float] = logits.log_softmax(-1).gather(1, chosen).squeeze(1).tolist()
        return told


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    chosen: torch.dtype = request.param
    return chosen


Made = Callable[[torch.dtype], Reference]


@pytest.fixture(scope="module")
def made(folders: dict[str, Path]) -> Made:
    """One a dtype, for they are dear."""
    return cache(lambda dtype: Reference(folders, dtype))


@pytest.fixture(scope="module")
def reference(made: Made, dtype: torch.dtype) -> Reference:
    return made(dtype)


@pytest.fixture(scope="module")
def path(folders: dict[str, Path], dtype: torch.dtype) -> ContinuousPath:
    return make(folders, dtype)


def make(folders: dict[str, Path], dtype: torch.dtype) -> ContinuousPath:
    shape = read_shape(folders["base"])
    assert shape is not None
    path = ContinuousPath(folders["base"], shape, dtype, torch.device("cuda"))
    assert path.ops.name == "cuda"
    for name in NAMES:
        path.load(files(folders, name))
    return path


def files(folders: dict[str, Path], name: str) -> VersionFiles:
    base = folders["base"]
    return VersionFiles(name, base, None if name == "base" else folders[name], base, ())


def prompt(source: random.Random, count: int) -> tuple[int, ...]:
    return tuple(source.randrange(3, 300) for _ in range(count))


def agree(found: Sequence[float], expected: Sequence[float], dtype: torch.dtype) -> None:
    apart = [abs(one - other) for one, other in zip(found, expected, strict=True)]
    if dtype == torch.float32:
        assert max(apart) < WIDE
    else:
        assert max(apart) < EACH
        assert sum(apart) / len(apart) < MEAN


def check(
    told: Completion, name: str, asked: Sequence[int], reference: Reference, dtype: torch.dtype
) -> None:
    """Each token's log-probability, as the answer itself has it before."""
    agree(told.logprobs, reference.score(name, asked, told.tokens), dtype)


def crowd(
    path: ContinuousPath, asked: Sequence[tuple[str, tuple[int, ...], Sampling]], seed: int
) -> list[Completion]:
    """They come in at random steps."""
    source = random.Random(seed)
    jobs = []
    for i, (name, tokens, sampling) in enumerate(asked):
        jobs.append(GenerateJob(GenerateRequest(name, tokens, sampling, str(i)), Kept()))
        path.add(jobs[-1])
        for _ in range(source.randrange(3)):
            path.step()
    run(path)
    return [answer(job) for job in jobs]


def test_nine_versions_mixed_with_chunks_and_shared_beginnings(
    path: ContinuousPath, reference: Reference, dtype: torch.dtype
) -> None:
    """Chunks of 100 tokens of prompts, so that all sizes of step occur; then all is asked again, of
    the cache.
    """
    source = random.Random(1)
    path._schedule = Schedule(path._schedule.blocks, 100)
    shared = prompt(source, 150)
    asked = []
    for i, count in enumerate((1, 7, 40, 90, 200, 331)):
        for name in NAMES:
            own = prompt(source, count)
            asked.append((name, (*shared, *own) if i % 2 else own, Sampling(max_tokens=4 + i)))
    for told, (name, tokens, _) in zip(crowd(path, asked, 2), asked, strict=True):
        check(told, name, tokens, reference, dtype)
    again = crowd(path, asked[-9:], 3)
    assert all(told.usage.cached >= 144 for told in again)
    for told, (name, tokens, _) in zip(again, asked[-9:], strict=True):
        check(told, name, tokens, reference, dtype)


def test_scores_equal_those_of_a_plain_pass(
    path: ContinuousPath, reference: Reference, dtype: torch.dtype
) -> None:
    source = random.Random(4)
    rows = [(prompt(source, a), prompt(source, b)) for a, b in ((1, 1), (30, 60), (300, 17))]
    for name in NAMES[:4]:
        for found, (before, end) in zip(score(path, name, rows), rows, strict=True):
            agree(found.logprobs, reference.score(name, before, end), dtype)


def test_the_adapters_change_what_is_said(path: ContinuousPath) -> None:
    row = (prompt(random.Random(5), 40), prompt(random.Random(6), 20))
    told = {score(path, name, [row])[0].logprobs for name in NAMES}
    assert len(told) == len(NAMES)


def test_deterministic_answers_are_the_same_to_the_last_bit_in_company(
    path: ContinuousPath, folders: dict[str, Path], dtype: torch.dtype
) -> None:
    source = random.Random(7)
    fixed = Sampling(max_tokens=9, top_logprobs=2, deterministic=True)
    drawn = Sampling(max_tokens=9, temperature=1.1, top_p=0.9, seed=3, deterministic=True)
    asked = [
        (name, prompt(source, 20 + 13 * i), (fixed, drawn)[i % 2])
        for i, name in enumerate(NAMES[:5])
    ]
    alone = [ask(path, name, [tokens], sampling)[0] for name, tokens, sampling in asked]
    beside = [
        (name, prompt(source, 5 + 11 * i), Sampling(max_tokens=12)) for i, name in enumerate(NAMES)
    ]
    told = crowd(make(folders, dtype), [*beside, *asked, *beside], 8)[len(beside) :]
    for mine, other in zip(told, alone, strict=False):
        assert (mine.tokens, mine.logprobs, mine.top) == (other.tokens, other.logprobs, other.top)


def test_a_seed_decides_whatever_the_company(path: ContinuousPath) -> None:
    source = random.Random(9)
    sampling = Sampling(
        max_tokens=10,
        temperature=0.9,
        top_k=40,
        top_p=0.95,
        min_p=0.01,
        seed=11,
        repetition_penalty=1.2,
        presence_penalty=0.3,
    )
    asked = [(name, prompt(source, 30), sampling) for name in NAMES]
    alone = [ask(path, name, [tokens], sampling)[0].tokens for name, tokens, _ in asked]
    together = [told.tokens for told in crowd(path, asked, 10)]
    same = sum(one == other for one, other in zip(alone, together, strict=True))
    # In bfloat16 a point of the distribution may fall to its neighbour.
    assert same == len(NAMES) or path._dtype == torch.bfloat16
    assert same >= len(NAMES) // 2


def test_one_that_is_cancelled_leaves_and_nothing_leaks(
    path: ContinuousPath, reference: Reference, dtype: torch.dtype
) -> None:
    free = path._schedule.blocks.available
    source = random.Random(12)
    asked = [prompt(source, 20 + i) for i in range(40)]
    jobs = [
        GenerateJob(GenerateRequest("v3", tokens, Sampling(max_tokens=6), str(i)), Kept())
        for i, tokens in enumerate(asked)
    ]
    for job in jobs:
        path.add(job)
    while path.busy:
        path.step()
        for job in jobs[::2]:
            job.cancelled = len(items(job)) >= 2
    for i, job in enumerate(jobs):
        told = answer(job)
        assert told.finish_reason == ("length" if i % 2 else "cancelled")
        check(told, "v3", asked[i], reference, dtype)
    assert path._schedule.blocks.available == free


def test_what_was_never_written_into_the_cache_may_be_anything(
    path: ContinuousPath, reference: Reference, dtype: torch.dtype
) -> None:
    for name in NAMES:
        path._schedule.blocks.forget(name)
    path._cache.keys.fill_(torch.nan)
    path._cache.values.fill_(torch.nan)
    tokens = prompt(random.Random(13), 45)
    check(ask(path, "v1", [tokens], Sampling(max_tokens=20))[0], "v1", tokens, reference, dtype)


def test_what_is_drawn_there_is_what_a_cpu_draws_of_the_same() -> None:
    """By seed and position alone, whichever way it is looked for."""
    source = random.Random(16)
    logits = 4 * torch.randn(40, 5000, generator=torch.Generator().manual_seed(1))
    asked = [
        Sampling(
            temperature=source.choice([0.3, 0.8, 1.5]),
            top_k=source.choice([0, 5, 300]),
            top_p=source.choice([0.5, 0.95, 1.0]),
            min_p=source.choice([0.0, 0.02]),
            seed=seed,
        )
        for seed in range(len(logits))
    ]

    def drawn(device: str) -> list[int]:
        samplers = [
            Sampler(GenerateRequest("base", (5,) * i, each, "1")) for i, each in enumerate(asked)
        ]
        told = choose(logits.to(device), samplers)
        return [each.token for each in told if isinstance(each, Drawn)]

    assert len(drawn("cpu")) == len(logits)
    assert drawn("cuda") == drawn("cpu")


@pytest.fixture(scope="module")
def engine(folders: dict[str, Path]) -> Iterator[LocalEngine]:
    """As it is served: the device and the number format of the machine."""
    engine = LocalEngine(folders["base"])
    yield engine
    engine.close()


def test_versions_come_and_go_under_traffic(
    engine: LocalEngine, folders: dict[str, Path], made: Made
) -> None:
    assert engine.runtime.device == "cuda"
    assert pick_dtype(pick_device()) == torch.bfloat16
    reference = made(torch.bfloat16)
    source = random.Random(14)

    async def asks(name: str, count: int) -> list[tuple[tuple[int, ...], Completion]]:
        asked = [prompt(source, source.randrange(5, 200)) for _ in range(count)]
        sampling = Sampling(max_tokens=8)
        told = await asyncio.gather(
            *(complete(engine, GenerateRequest(name, tokens, sampling, name)) for tokens in asked)
        )
        return list(zip(asked, told, strict=True))

    async def comes_and_goes(name: str) -> list[tuple[str, tuple[int, ...], Completion]]:
        found = []
        for _ in range(2):
            await engine.load(files(folders, name))
            found += [(name, *each) for each in await asks(name, 4)]
            await engine.unload(name)
        return found

    async def all_of_it() -> list[tuple[str, tuple[int, ...], Completion]]:
        assert (await engine.capabilities()).kernels == "triton"
        await engine.load(files(folders, "base"))
        streams = [comes_and_goes(name) for name in NAMES[1:]]
        steady = asks("base", 12)
        told, *rest = await asyncio.gather(steady, *streams)
        return [("base", *each) for each in told] + [each for some in rest for each in some]

    for name, tokens, told in asyncio.run(all_of_it()):
        check(told, name, tokens, reference, torch.bfloat16)


def test_a_schema_holds_on_the_gpu(engine: LocalEngine, folders: dict[str, Path]) -> None:
    schema = json.dumps({"enum": ["red", "blue"]})

    async def ask_for_it() -> Completion:
        base = folders["base"]
        await engine.load(VersionFiles("stops", base, None, base, (2,)))
        sampling = Sampling(max_tokens=60, temperature=1.0, seed=2, schema=schema)
        return await complete(engine, GenerateRequest("stops", (5, 6, 7), sampling, "1"))

    assert json.loads(asyncio.run(ask_for_it()).text) in ("red", "blue")


def test_a_score_of_many_completions_shares_its_prompt(
    engine: LocalEngine, folders: dict[str, Path], made: Made
) -> None:
    reference = made(torch.bfloat16)
    source = random.Random(15)
    before, ends = prompt(source, 100), tuple(prompt(source, 12) for _ in range(20))

    async def scored() -> list[tuple[float, ...]]:
        await engine.load(files(folders, "v5"))
        told = await engine.score(ScoreRequest("v5", before, ends, "1"))
        return [each.logprobs for each in told]

    for found, end in zip(asyncio.run(scored()), ends, strict=True):
        agree(found, reference.score("v5", before, end), torch.bfloat16)
