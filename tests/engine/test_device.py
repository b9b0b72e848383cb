"""Where a step's tensors lie, asked without a GPU: `meta` stands for one, and what would meet a
tensor of the CPU there is refused.
"""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError, FakeTensorMode

from tests.engine.conftest import VersionOf
from tests.engine.paths import Kept, answer, make_path, run
from tests.engine.reference import Reference
from trimtab.engine.continuous.batch import Part, lay_out
from trimtab.engine.continuous.path import ContinuousPath
from trimtab.engine.continuous.room import PROMPT_TOKENS
from trimtab.engine.jobs import GenerateJob
from trimtab.engine.llama.family import read_shape
from trimtab.inference import GenerateRequest, Sampling

AWAY = torch.device("meta")
PROMPTS = {"base": tuple(range(100, 150)), "red": (17, 40, 5, 99), "blue": tuple(range(60, 83))}


def path_on(device: torch.device, base: Path, dtype: torch.dtype) -> ContinuousPath:
    shape = read_shape(base)
    assert shape is not None
    return ContinuousPath(base, shape, dtype, device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_step_keeps_to_the_device_of_its_model(
    base: Path, version_of: VersionOf, dtype: torch.dtype
) -> None:
    path = path_on(AWAY, base, dtype)
    for name in PROMPTS:
        path.load(version_of(name))
    assert path.ops.name == "torch"
    assert path._schedule._prompt_tokens == PROMPT_TOKENS
    chunk, single, other = (path._adapters.get(name) for name in PROMPTS)
    parts = [
        Part(range(3, 40), 16, [4, 1, 7, 2], 1, chunk),
        Part([9], 20, [3, 5], 1, single),
        Part([8], 40, [6, 8, 9], 1, other),
        Part([7, 8, 9], 0, [10], 3, None),
    ]
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        logits = path.model.forward(lay_out(parts, path._radians, AWAY), path._cache)
        assert (logits.device, tuple(logits.shape)) == (AWAY, (6, path._shape.vocabulary))
        astray = lay_out(parts, path._radians.new_ones(8, device="cpu"), torch.device("cpu"))
        with pytest.raises(FakeTensorDeviceMismatchError):
            path.model.forward(astray, path._cache)


@pytest.mark.parametrize("kind", ["native", "torch"])
def test_what_was_never_written_into_the_cache_may_be_anything(
    base: Path, adapters: dict[str, Path], version_of: VersionOf, kind: str
) -> None:
    """Fresh memory of a GPU may be; so may a block whose last owner's numbers overflowed."""
    path = make_path(base, kind)
    assert isinstance(path, ContinuousPath)
    path._cache.keys.fill_(torch.nan)
    path._cache.values.fill_(torch.nan)
    jobs = {}
    for name, prompt in PROMPTS.items():
        path.load(version_of(name))
        request = GenerateRequest(name, prompt, Sampling(max_tokens=5), name)
        jobs[name] = GenerateJob(request, Kept())
        path.add(jobs[name])
    run(path)
    for name, job in jobs.items():
        said = Reference(base, adapters.get(name)).greedy(PROMPTS[name], 5)
        assert answer(job).tokens == said.tokens
        assert answer(job).logprobs == pytest.approx(said.logprobs, abs=1e-4)
