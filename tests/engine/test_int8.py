"""int8: its arithmetic, and what must hold before it answers."""

from pathlib import Path

import pytest
import torch

from trimtab.engine.continuous.quality import check
from trimtab.engine.llama.family import read_shape
from trimtab.engine.llama.linear import quantised
from trimtab.engine.llama.network import Llama
from trimtab.engine.llama.weights import load_weights
from trimtab.engine.local import LocalEngine
from trimtab.engine.ops import NativeOps
from trimtab.engine.ops.build import library
from trimtab.engine.ops.int8_ops import Int8Ops
from trimtab.engine.processor import VNNI, cpu_flags, require_vnni
from trimtab.errors import EngineError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def compiled() -> Path:
    path = library()
    assert path is not None, "the tests need a C++ compiler"
    return path


def model(base: Path, ops: NativeOps) -> Llama:
    shape = read_shape(base)
    assert shape is not None
    return Llama(shape, load_weights(base, shape, torch.float32, CPU, ops.arrange), ops)


def test_a_projection_in_bytes_is_that_of_the_rounded_numbers(compiled: Path) -> None:
    """Against exact sums of the same whole numbers: nothing is lost beyond the rounding."""
    ops = Int8Ops(compiled, torch.float32)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(37, 72, generator=generator)
    x = torch.randn(5, 72, generator=generator) * torch.tensor([1e-3, 1.0, 50.0, 1e4, 0.0])[:, None]
    linear = quantised(weight)
    scales = x.abs().amax(1, keepdim=True).clamp(min=1e-30) / ops._levels
    expected = (x / scales).round().double() @ linear.rows().double().T * scales
    found = ops.linear(x, linear)
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.allclose(linear.rows(), weight, atol=float(weight.abs().max()) / 254 + 1e-6)


def test_a_base_that_answers_alike_passes_and_one_that_does_not_is_refused(
    compiled: Path, base: Path
) -> None:
    exact = model(base, NativeOps(compiled, torch.float32))
    tokens = list(range(3, 100))
    tried = model(base, Int8Ops(compiled, torch.float32))
    assert 0 < check(exact, tried, exact.shape, tokens, torch.float32) < 0.02
    coarse = Int8Ops(compiled, torch.float32)
    coarse._levels = 3
    with pytest.raises(EngineError, match="nats a token"):
        check(exact, model(base, coarse), exact.shape, tokens, torch.float32)


def test_a_processor_without_vnni_is_refused_in_one_line(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name : old\nflags : fpu avx2\n")
    with pytest.raises(EngineError, match="VNNI") as refused:
        require_vnni(cpuinfo)
    assert "\n" not in refused.value.message
    cpuinfo.write_text("flags : fpu avx2 avx_vnni\n")
    require_vnni(cpuinfo)


def test_an_engine_in_bytes_says_so_or_is_refused(base: Path) -> None:
    if not VNNI & cpu_flags():
        with pytest.raises(EngineError, match="VNNI"):
            LocalEngine(base, quantisation="int8")
        return
    engine = LocalEngine(base, quantisation="int8")
    try:
        assert engine.runtime.quantisation == "int8"
    finally:
        engine.close()
