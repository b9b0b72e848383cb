"""Numbers of 16 bits: adapters whose files hold no more, as PEFT on a GPU may write them, and an
engine that computes in bfloat16, whatever the machine does natively.
"""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.kinds import KindReference, build_kind
from tests.engine.test_load import rewrite, with_magnitudes
from tests.tiny import build_adapter, build_base
from trimtab.engine.continuous import path as continuous
from trimtab.engine.local import LocalEngine
from trimtab.engine.ops import TorchOps
from trimtab.inference import (
    Completion,
    GenerateRequest,
    Sampling,
    Score,
    ScoreRequest,
    VersionFiles,
    complete,
)

CPU = torch.device("cpu")
HALF, BRAIN = torch.float16, torch.bfloat16
PROMPTS = [(17, 40, 5, 99), (250, 31, 7, 8, 60, 61, 62, 90, 14), tuple(range(100, 180))]
END = (7, 8, 9, 10, 44, 120, 301, 6)
ALONE = ("ia3", "prompt_tuning", "prefix_tuning", "bottleneck")
BF16_NATS = 0.1
"""What a token may differ by in bfloat16: the design's bound on the tolerance of golden probes."""

Answers = dict[str, tuple[list[Completion], list[Score]]]


def narrowed(folder: Path, dtype: torch.dtype) -> Path:
    """A base or adapter whose weights' file holds no more than `dtype` does."""
    [file] = folder.glob("*.safetensors")
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def narrow_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = build_base(tmp_path_factory.mktemp("narrow") / "base", layers=3, spread=0.1)
    return narrowed(base, BRAIN)


@pytest.fixture(scope="module")
def narrow(narrow_base: Path) -> dict[str, Path]:
    """Adapters of every method in 16 bits, and "wide" in 32."""
    at = narrow_base.parent
    dora = build_adapter(at / "dora", narrow_base, seed=3, rank=3, spread=0.07)
    rewrite(dora / "adapter_model.safetensors", with_magnitudes)
    config = dora / "adapter_config.json"
    config.write_text(config.read_text().replace("{", '{"use_dora": true,', 1))
    half = build_adapter(at / "half", narrow_base, seed=1, rank=4, spread=0.07)
    brain = build_adapter(at / "brain", narrow_base, seed=2, rank=7, spread=0.07)
    found = {
        "wide": build_adapter(at / "wide", narrow_base, seed=4, rank=5, spread=0.07),
        "half": narrowed(half, HALF),
        "brain": narrowed(brain, BRAIN),
        "dora": narrowed(dora, BRAIN),
    }
    for kind in ALONE:
        found[kind] = narrowed(build_kind(at / kind, narrow_base, kind), BRAIN)
    return found


@pytest.fixture(scope="module")
def references(narrow_base: Path, narrow: dict[str, Path]) -> dict[str, KindReference]:
    """In float32. PEFT reads the files as they are; ours of the bottleneck are multiplied by hand,
    which takes one dtype.
    """
    wide = narrow_base.parent / "bottleneck in 32"
    shutil.copytree(narrow["bottleneck"], wide)
    narrowed(wide, torch.float32)
    folders = {**narrow, "bottleneck": wide}
    found = {name: KindReference(narrow_base, folder) for name, folder in folders.items()}
    return {"base": KindReference(narrow_base), **found}


def asked(engine: LocalEngine, base: Path, adapters: dict[str, Path]) -> Answers:
    """Every version asked everything at the same time; who shares a step and can, does."""

    async def every() -> Answers:
        names = ("base", *adapters)
        for name in names:
            await engine.load(VersionFiles(name, base, adapters.get(name), base, ()))
        sampling = Sampling(max_tokens=6)
        rows = [(name, prompt) for name in names for prompt in PROMPTS]
        answers = asyncio.gather(
            *(
                complete(engine, GenerateRequest(*row, sampling, f"{i}"))
                for i, row in enumerate(rows)
            )
        )
        scores = asyncio.gather(
            *(engine.score(ScoreRequest(*row, (END,), f"s{i}")) for i, row in enumerate(rows))
        )
        said, scored = iter(await answers), iter(await scores)
        return {
            name: ([next(said) for _ in PROMPTS], [next(scored)[0] for _ in PROMPTS])
            for name in names
        }

    return asyncio.run(every())


def test_adapters_of_sixteen_bits_beside_one_of_thirty_two_say_what_peft_says(
    narrow_base: Path, narrow: dict[str, Path], references: dict[str, KindReference]
) -> None:
    engine = LocalEngine(narrow_base, torch.float32, CPU)
    try:
        found = asked(engine, narrow_base, narrow)
    finally:
        engine.close()
    for name, (answers, scores) in found.items():
        for prompt, answer, score in zip(PROMPTS, answers, scores, strict=True):
            said = references[name].greedy(prompt, 6)
            assert answer.tokens == said.tokens, name
            assert answer.logprobs == pytest.approx(said.logprobs, abs=1e-3), name
            expected = references[name].score(prompt, END)
            assert score.logprobs == pytest.approx(expected, abs=1e-3), name


@pytest.fixture(params=["native", "torch"])
def brain_engine(
    request: pytest.FixtureRequest, narrow_base: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LocalEngine]:
    if request.param == "torch":
        monkeypatch.setattr(continuous, "pick_ops", lambda shape, *where: TorchOps(*where))
    engine = LocalEngine(narrow_base, BRAIN, CPU)
    assert engine._versions.fast is not None
    assert engine._versions.fast.ops.name == request.param
    yield engine
    engine.close()


def test_in_bfloat16_every_method_is_within_its_tolerance_of_float32(
    brain_engine: LocalEngine,
    narrow_base: Path,
    narrow: dict[str, Path],
    references: dict[str, KindReference],
) -> None:
    """A greedy token is the reference's best, or as good as that to the tolerance."""
    assert brain_engine.runtime.name.endswith("/cpu/bfloat16/none")
    found = asked(brain_engine, narrow_base, narrow)
    worst = 0.0
    for name, (answers, scores) in found.items():
        for prompt, answer, score in zip(PROMPTS, answers, scores, strict=True):
            expected = references[name].score(prompt, END)
            told = references[name].score(prompt, answer.tokens)
            for ours, theirs in ((score.logprobs, expected), (answer.logprobs, told)):
                differences = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
                worst = max(worst, *differences)
                assert max(differences) <= BF16_NATS, name
            for at, token in enumerate(answer.tokens):
                best, value = references[name].best((*prompt, *answer.tokens[:at]))
                assert token == best or value - told[at] <= 2 * BF16_NATS, name
    print(f"bfloat16: at most {worst:.3f} nat from float32")
    assert worst > 1e-4, "it was computed in float32"
