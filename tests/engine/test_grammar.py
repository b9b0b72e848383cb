"""Answers under a schema: what ends by itself validates, and the neighbours do not notice."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.conftest import VersionOf
from tests.engine.paths import FAST, KINDS, AnyPath, Kept, answer, load, make_path, run
from tests.engine.reference import Reference
from tests.engine.test_paths import prompts, same
from tests.text.test_schema import TICKET, schemas
from trimtab.engine.dtype import pick_device
from trimtab.engine.jobs import GenerateJob
from trimtab.engine.local import LocalEngine
from trimtab.engine.sampling.grammar import Grammar, Grammars
from trimtab.errors import EngineUnavailable, RequestRefused
from trimtab.inference import GenerateRequest, Sampling, complete
from trimtab.text.schema import Vocabulary, compiled, opened

WORDS = 400
COUNT = 70


@pytest.fixture(scope="module", params=KINDS)
def path(request: pytest.FixtureRequest, base: Path, version_of: VersionOf) -> AnyPath:
    path = make_path(base, request.param)
    load(path, version_of("red"))
    return path


@pytest.fixture(scope="module")
def native(base: Path, version_of: VersionOf) -> AnyPath:
    path = make_path(base, FAST)
    for name in ("base", "red"):
        load(path, version_of(name))
    return path


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Any:
    return opened(Vocabulary(str(base / "tokenizer.json"), WORDS, (2,)))


@pytest.fixture(scope="module")
def plain(base: Path) -> Any:
    [prompt] = prompts([14], seed=70)
    return prompt, Reference(base).greedy(prompt, 12)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(asked=st.lists(schemas, min_size=1, max_size=4), seed=st.integers(0, 2**32))
def test_every_answer_that_ends_by_itself_validates(
    native: AnyPath, tokenizer: Any, plain: Any, asked: list[Any], seed: int
) -> None:
    """Hot enough that a free model would write noise; a row without a schema goes along."""
    prompt, said = plain
    jobs = [
        GenerateJob(GenerateRequest("base", prompt, Sampling(max_tokens=12), "free"), Kept())
    ] + [
        GenerateJob(
            GenerateRequest(
                ("base", "red")[i % 2],
                prompt,
                Sampling(
                    max_tokens=COUNT, temperature=1.5, seed=seed + i, schema=json.dumps(schema)
                ),
                str(i),
            ),
            Kept(),
            grammar=Grammar(compiled(json.dumps(schema), tokenizer)),
        )
        for i, schema in enumerate(asked)
    ]
    for job in jobs:
        native.add(job)
    run(native)
    assert same(answer(jobs[0]), said)
    for schema, job in zip(asked, jobs[1:], strict=True):
        told = answer(job)
        if told.finish_reason == "stop":
            jsonschema.validate(json.loads(told.text), schema)
        else:
            assert len(told.tokens) == COUNT


def test_a_greedy_answer_under_a_schema_ends_with_the_object(path: AnyPath, tokenizer: Any) -> None:
    """Nothing can follow the last brace, so no token is spent on an end."""
    schema = json.dumps({**TICKET, "properties": {"intent": {"enum": ["a", "b"]}}, "required": []})
    [prompt] = prompts([9], seed=3)
    job = GenerateJob(
        GenerateRequest("red", prompt, Sampling(max_tokens=60, schema=schema), "1"),
        Kept(),
        grammar=Grammar(compiled(schema, tokenizer)),
    )
    path.add(job)
    run(path)
    told = answer(job)
    assert told.finish_reason == "stop"
    assert told.text.endswith("}")
    assert 2 not in told.tokens


@pytest.fixture(scope="module")
def engine(base: Path) -> Iterator[LocalEngine]:
    engine = LocalEngine(base, torch.float32, pick_device())
    yield engine
    engine.close()


def test_a_schema_is_refused_for_its_request_alone(
    engine: LocalEngine, base: Path, version_of: VersionOf
) -> None:
    [prompt] = prompts([11])

    def request(id: str, **more: Any) -> GenerateRequest:
        return GenerateRequest("base", prompt, Sampling(max_tokens=40, **more), id)

    async def ask() -> list[Any]:
        await engine.load(version_of("base"))
        return await asyncio.gather(
            complete(engine, request("1")),
            complete(engine, request("2", schema='{"not": {}}')),
            complete(engine, request("3", schema='{"enum": ["yes", "no"]}')),
            complete(engine, request("4", schema='{"enum": ["yes", "no"]}')),
            complete(engine, request("5", schema="{}", stop=("x",))),
            return_exceptions=True,
        )

    free, refused, first, second, cut = asyncio.run(ask())
    assert same(free, Reference(base).greedy(prompt, 40))
    assert isinstance(refused, RequestRefused)
    assert '"not"' in refused.message
    assert first.text == second.text
    assert first.text in ('"yes"', '"no"')
    assert isinstance(cut, RequestRefused)
    assert len(engine._grammars._compiled) == 1


def test_a_schema_that_meets_a_stopping_engine_is_told_so(
    base: Path, version_of: VersionOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is compiled, while it waits for another one, and after the end."""
    begun, go_on = threading.Event(), threading.Event()

    def slowly(self: Grammars, vocabulary: Vocabulary, schema: str) -> Any:
        begun.set()
        go_on.wait(20)
        return compiled(schema, opened(Vocabulary()))

    monkeypatch.setattr(Grammars, "_compile", slowly)

    async def ask() -> list[Any]:
        grammars = Grammars(WORDS)
        asked = [
            asyncio.create_task(grammars.of(version_of("base"), json.dumps({"enum": [i]})))
            for i in range(3)
        ]
        await asyncio.to_thread(begun.wait, 20)
        asked[2].cancel()
        grammars.close()
        go_on.set()
        async with asyncio.timeout(20):
            told = await asyncio.gather(*asked, return_exceptions=True)
            with pytest.raises(EngineUnavailable):
                await grammars.of(version_of("base"), "{}")
        return list(told)

    first, waiting, cancelled = asyncio.run(ask())
    assert isinstance(first, Grammar)
    assert isinstance(waiting, EngineUnavailable)
    assert isinstance(cancelled, asyncio.CancelledError)
