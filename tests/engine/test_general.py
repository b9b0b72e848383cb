"""The general path beside transformers and PEFT: families that the fast path does not know, and
adapters that it cannot mix.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.kinds import VIRTUAL, KindReference, build_family, build_kind
from trimtab.engine.dtype import pick_device
from trimtab.engine.local import LocalEngine
from trimtab.errors import IdentityError, RequestRefused
from trimtab.inference import (
    Completion,
    GenerateRequest,
    Sampling,
    Score,
    ScoreRequest,
    VersionFiles,
    complete,
)

FAMILIES = ("gpt2", "neox", "opt", "phi", "bloom", "gemma3")
KINDS = ("ia3", "prompt_tuning", "prefix_tuning", "bottleneck")
PROMPTS = [(17, 40, 5, 99), (250, 31, 7, 8, 60, 61, 62, 90, 14), (9, 9)]
LONG = tuple(range(100, 180))
# Two that share enough for the prefix to be computed once.
SHARING = [(*LONG, 17), (*LONG, 40, 5)]
COUNT = 6


def ask(engine: LocalEngine, version: str, prompts: list[tuple[int, ...]]) -> list[Completion]:
    """All at once, so that they share a batch."""

    async def every() -> list[Completion]:
        sampling = Sampling(max_tokens=COUNT)
        asked = (GenerateRequest(version, p, sampling, str(i)) for i, p in enumerate(prompts))
        return await asyncio.gather(*(complete(engine, request) for request in asked))

    return asyncio.run(every())


def score(
    engine: LocalEngine, version: str, prompt: tuple[int, ...], end: tuple[int, ...]
) -> Score:
    return asyncio.run(engine.score(ScoreRequest(version, prompt, (end,), "s")))[0]


def check(engine: LocalEngine, version: str, reference: KindReference) -> None:
    """Greedy tokens and log-probabilities of a batch, with and without a shared prefix."""
    for prompts in (PROMPTS, SHARING):
        for prompt, answer in zip(prompts, ask(engine, version, prompts), strict=True):
            said = reference.greedy(prompt, COUNT)
            assert answer.tokens == said.tokens
            assert answer.logprobs == pytest.approx(said.logprobs, abs=1e-3)
    found = score(engine, version, PROMPTS[1], PROMPTS[0]).logprobs
    assert found == pytest.approx(reference.score(PROMPTS[1], PROMPTS[0]), abs=1e-3)


def opened(base: Path) -> LocalEngine:
    return LocalEngine(base, torch.float32, pick_device())


def load(engine: LocalEngine, base: Path, name: str, adapter: Path | None, **more: bool) -> None:
    asyncio.run(engine.load(VersionFiles(name, base, adapter, base, (), **more)))


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory, base: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    return {kind: build_kind(folder / kind, base, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def engine(base: Path, adapters: dict[str, Path], kinds: dict[str, Path]) -> Iterator[LocalEngine]:
    """One engine with every method in it at the same time, LoRA on the fast path."""
    engine = opened(base)
    load(engine, base, "base", None)
    load(engine, base, "red", adapters["red"])
    for kind, folder in kinds.items():
        load(engine, base, kind, folder)
    yield engine
    engine.close()


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_says_what_its_library_says(
    engine: LocalEngine, base: Path, kinds: dict[str, Path], kind: str
) -> None:
    reference = KindReference(base, kinds[kind])
    check(engine, kind, reference)
    plain = KindReference(base).score(PROMPTS[1], PROMPTS[0])
    assert score(engine, kind, PROMPTS[1], PROMPTS[0]).logprobs != pytest.approx(plain, abs=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_what_verification_calls_merged_says_the_same(
    engine: LocalEngine, base: Path, kinds: dict[str, Path], kind: str
) -> None:
    load(engine, base, "merged", kinds[kind], merged=True)
    found = score(engine, "merged", PROMPTS[1], PROMPTS[0]).logprobs
    asyncio.run(engine.unload("merged"))
    reference = KindReference(base, kinds[kind])
    assert found == pytest.approx(reference.score(PROMPTS[1], PROMPTS[0]), abs=1e-4)


def test_methods_answer_at_the_same_time_and_do_not_mix(
    engine: LocalEngine, base: Path, adapters: dict[str, Path], kinds: dict[str, Path]
) -> None:
    folders = {"base": None, "red": adapters["red"], **kinds}

    async def crowd() -> list[Completion]:
        asked = (
            GenerateRequest(name, PROMPTS[0], Sampling(max_tokens=COUNT), f"{name}{i}")
            for i in range(2)
            for name in folders
        )
        return await asyncio.gather(*(complete(engine, request) for request in asked))

    answers = iter(asyncio.run(crowd()))
    expected = [
        KindReference(base, folder).greedy(PROMPTS[0], COUNT) for folder in folders.values()
    ]
    for said in expected * 2:
        assert next(answers).tokens == said.tokens


def test_a_method_that_is_unloaded_leaves_the_others_as_they_were(
    engine: LocalEngine, base: Path, kinds: dict[str, Path]
) -> None:
    load(engine, base, "again", kinds["ia3"])
    asyncio.run(engine.unload("again"))
    for name, folder in (("base", None), ("ia3", kinds["ia3"])):
        expected = KindReference(base, folder).score(PROMPTS[0], PROMPTS[2])
        found = score(engine, name, PROMPTS[0], PROMPTS[2]).logprobs
        assert found == pytest.approx(expected, abs=1e-3)


def test_virtual_tokens_take_their_places_from_the_context(engine: LocalEngine) -> None:
    prompt, room = (5,) * 500, Sampling(max_tokens=12 - VIRTUAL)
    asyncio.run(complete(engine, GenerateRequest("prompt_tuning", prompt, room, "fits")))
    more = Sampling(max_tokens=13 - VIRTUAL)
    for kind in ("prompt_tuning", "prefix_tuning"):
        with pytest.raises(RequestRefused, match=f"the model holds {512 - VIRTUAL}"):
            asyncio.run(complete(engine, GenerateRequest(kind, prompt, more, "too long")))
    asyncio.run(complete(engine, GenerateRequest("ia3", prompt, more, "has room")))


def test_a_version_that_is_just_going_still_has_its_context(
    engine: LocalEngine, base: Path, kinds: dict[str, Path]
) -> None:
    """The computing thread forgets a version in two steps; a request may come between them."""
    load(engine, base, "going", kinds["prompt_tuning"])
    held = engine._versions.held["going"]
    asyncio.run(engine.unload("going"))
    engine._versions.held["going"] = held
    try:
        prompt = GenerateRequest("going", (5,) * 500, Sampling(max_tokens=13 - VIRTUAL), "late")
        with pytest.raises(RequestRefused, match=f"the model holds {512 - VIRTUAL}"):
            asyncio.run(complete(engine, prompt))
    finally:
        del engine._versions.held["going"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["renamed", "nan", "narrow", "empty", "foreign type"])
def test_a_damaged_adapter_of_any_method_is_refused(
    engine: LocalEngine, base: Path, kinds: dict[str, Path], kind: str, fault: str, tmp_path: Path
) -> None:
    tensors = load_file(kinds[kind] / "adapter_model.safetensors")
    config = json.loads((kinds[kind] / "adapter_config.json").read_text())
    first = sorted(tensors)[0]
    match fault:
        case "renamed":
            tensors["elsewhere"] = tensors.pop(first)
        case "nan":
            tensors[first].flatten()[0] = torch.nan
        case "narrow":
            tensors[first] = tensors[first][..., :-1].contiguous()
        case "empty":
            tensors = {}
        case "foreign type":
            config["peft_type"] = "VERA"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IdentityError) as caught:
        load(engine, base, "damaged", tmp_path)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    expected = KindReference(base).score(PROMPTS[0], PROMPTS[2])
    assert score(engine, "base", PROMPTS[0], PROMPTS[2]).logprobs == pytest.approx(
        expected, abs=1e-4
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_say_what_transformers_says(family: str, tmp_path: Path) -> None:
    base = build_family(tmp_path / "base", family)
    engine = opened(base)
    try:
        load(engine, base, "base", None)
        check(engine, "base", KindReference(base))
        lora = build_kind(tmp_path / "lora", base, "lora")
        load(engine, base, "lora", lora)
        check(engine, "lora", KindReference(base, lora))
        methods = asyncio.run(engine.capabilities()).methods
        assert methods["lora"] == "alone"
    finally:
        engine.close()


@pytest.mark.parametrize("kind", ["prompt_tuning", "prefix_tuning"])
def test_virtual_tokens_over_a_sliding_window_are_refused(kind: str, tmp_path: Path) -> None:
    base = build_family(tmp_path / "base", "gemma3")
    adapter = build_kind(tmp_path / kind, base, kind)
    engine = opened(base)
    try:
        with pytest.raises(IdentityError, match="sliding windows"):
            load(engine, base, kind, adapter)
    finally:
        engine.close()


def test_a_merged_full_fine_tune_is_a_base_of_its_own(base: Path, tmp_path: Path) -> None:
    """Every weight of it differs from the base that it came from."""
    tensors = load_file(base / "model.safetensors")
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    for file in base.iterdir():
        (tuned / file.name).write_bytes(file.read_bytes())
    torch.manual_seed(5)
    changed = {name: tensor + 0.02 * torch.randn_like(tensor) for name, tensor in tensors.items()}
    save_file(changed, tuned / "model.safetensors", metadata={"format": "pt"})
    engine = opened(tuned)
    try:
        load(engine, tuned, "tuned", None)
        check(engine, "tuned", KindReference(tuned))
    finally:
        engine.close()
