"""The kernels against plain torch, over the shapes and dtypes that they claim to compute."""

import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from trimtab.engine.continuous.batch import Part, lay_out
from trimtab.engine.continuous.blocks import BLOCK
from trimtab.engine.continuous.cache import Cache
from trimtab.engine.llama.family import Rope, Shape
from trimtab.engine.llama.linear import Linear, _tell, packed, panelled, plain
from trimtab.engine.llama.lora import Adapter
from trimtab.engine.llama.pages import Pages
from trimtab.engine.llama.pair import Pair, Told, Up
from trimtab.engine.llama.rope import frequencies
from trimtab.engine.llama.weights import Layer
from trimtab.engine.ops import NativeOps, TorchOps, build, fits, pick_ops
from trimtab.engine.ops.build import library
from trimtab.engine.ops.compiled import Compiled, runs
from trimtab.engine.ops.torch_ops import adapt_segment
from trimtab.engine.processor import cpu_flags
from trimtab.engine.sampling.sampler import best
from trimtab.errors import EngineError

CPU = torch.device("cpu")
DTYPES = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


def shape(heads: int, kv_heads: int, head_dim: int) -> Shape:
    rope = Rope("default", 10000.0, {})
    flags = {"qkv_bias": False, "o_bias": False, "mlp_bias": False, "qk_norm": True, "tied": True}
    return Shape(1, 64, 96, heads, kv_heads, head_dim, 100, 512, 1e-5, rope, **flags)


@pytest.fixture(scope="module")
def compiled() -> Path:
    path = library()
    assert path is not None, "the tests need a C++ compiler"
    return path


ASKS = {"sse4": {"sse4_2"}, "avx2": {"avx2", "fma"}, "avx512": {"avx512bw", "avx512vl"}}
RUNS = [level for level in build.levels() if ASKS.get(level, set()) <= cpu_flags()]
"""The levels that the kernel says this processor runs."""

Made = Callable[[torch.dtype], NativeOps]


@pytest.fixture(params=RUNS)
def made(compiled: Path, request: pytest.FixtureRequest) -> Made:
    """The kernels at each level, by dtype."""
    return partial(NativeOps, compiled, level=request.param)


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    chosen: torch.dtype = request.param
    return chosen


@pytest.fixture
def native(made: Made, dtype: torch.dtype) -> NativeOps:
    return made(dtype)


def rand(*size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(size, generator=GENERATOR).to(dtype)


GENERATOR = torch.Generator().manual_seed(3)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(
        one.float(), other.float(), atol=DTYPES[one.dtype], rtol=DTYPES[one.dtype]
    )


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 6, 7, 13, 50, 101])
@pytest.mark.parametrize(("outputs", "inputs"), [(37, 64), (96, 72), (130, 1600)])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
def test_a_projection_in_panels(
    made: Made, tokens: int, outputs: int, inputs: int, stored: torch.dtype
) -> None:
    """In float32 from bfloat16 too, for the numbers are the same: the file had no more of them."""
    native = made(torch.float32)
    weight = rand(outputs, inputs, dtype=stored)
    linear = native.arrange(weight)
    assert linear.panels is not None
    assert linear.panels.dtype == stored
    x = rand(tokens, inputs)
    expected = x.double() @ weight.double().T
    found = native.linear(x, linear)
    assert torch.allclose(found.double(), expected, atol=1e-4)
    # Nobody's result depends on who is beside it.
    assert torch.equal(found[-1:], native.linear(x[-1:], linear))


@pytest.mark.parametrize("size", [(16, 5), (35, 130), (576, 576)])
@pytest.mark.parametrize("stored", DTYPES)
def test_the_compiled_panels_are_the_reference_s(
    made: Made, size: tuple[int, int], stored: torch.dtype
) -> None:
    weight = rand(*size, dtype=stored)
    found = made(torch.float32).arrange(weight)
    expected = panelled(weight)
    assert found.size == expected.size
    assert found.panels is not None
    assert expected.panels is not None
    assert torch.equal(found.panels, expected.panels)


@pytest.mark.parametrize("width", [1, 7, 100, 4099])
def test_the_best_token_and_what_its_logit_is_measured_by(made: Made, width: int) -> None:
    ops = made(torch.float32)
    logits = rand(9, width) * torch.tensor([0, 1, 5, 40, 1, 1, 1, 1, 1.0]).unsqueeze(1)
    logits[4] = logits[4].round()  # several are the largest
    logits[5, width // 2] = math.nan
    logits[6, width - 1] = math.inf
    logits[7, :-1] = -math.inf
    tokens, normalisers = ops.best(logits)
    expected, exact = best(logits)
    finite = [0, 1, 2, 3, 4, 7, 8]
    assert torch.equal(tokens[finite], expected[finite])
    assert torch.allclose(normalisers[finite], exact[finite], rtol=1e-6, atol=2e-6)
    assert not torch.isfinite(normalisers[[5, 6]]).any()
    alone = torch.cat([ops.best(row.unsqueeze(0))[1] for row in logits])
    assert torch.equal(alone[finite], normalisers[finite])


@pytest.mark.parametrize("arrange", [plain, panelled, packed])
def test_what_was_arranged_can_be_had_back(arrange: Callable[[torch.Tensor], Linear]) -> None:
    weight = rand(37, 72)
    assert torch.equal(arrange(weight).rows(), weight)
    assert torch.equal(panelled(weight.bfloat16()).rows(), weight.bfloat16().float())


@pytest.mark.parametrize("tokens", [1, 9])
def test_norms(native: NativeOps, dtype: torch.dtype, tokens: int) -> None:
    x, delta = rand(tokens, 70, dtype=dtype), rand(tokens, 70, dtype=dtype)
    weight = rand(70, dtype=dtype)
    for more in (None, delta):
        mine, theirs = x.clone(), x.clone()
        assert close(
            native.norm(mine, weight, 1e-5, more),
            TorchOps(torch.float32, CPU).norm(theirs, weight, 1e-5, more),
        )
        assert close(mine, theirs)


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("width", [16, 75, 300])
def test_the_gate(native: NativeOps, dtype: torch.dtype, tokens: int, width: int) -> None:
    gate_up = rand(tokens, 2 * width, dtype=dtype) * 8
    assert close(native.gate(gate_up), TorchOps(torch.float32, CPU).gate(gate_up))


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(9, 3, 64), (4, 4, 16), (8, 1, 128)])
def test_attention_over_the_cache(
    native: NativeOps, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int
) -> None:
    """Long and short histories, chunks and single tokens, blocks in any order."""
    sizes = shape(heads, kv_heads, head_dim)
    radians = frequencies(sizes.rope, head_dim)
    norms = rand(head_dim, dtype=dtype)
    layer = Layer(*[Linear((1, 1))] * 4, norms, norms, norms, norms)
    order = torch.randperm(64, generator=GENERATOR).tolist()
    histories = [(0, 40), (37, 1), (16, 33), (130, 1), (0, 1)]
    parts = []
    for held, count in histories:
        needed = -(-(held + count) // BLOCK)
        mine, order = order[:needed], order[needed:]
        parts.append(Part(range(count), held, mine, 0, None))
    batch = lay_out(parts, radians, CPU)
    qkv = rand(len(batch.tokens), sizes.qkv_width, dtype=dtype)
    results = []
    for ops in (TorchOps(torch.float32, CPU), native):
        cache = Cache(sizes, 64, dtype, CPU)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            cache.keys.copy_(torch.randn(cache.keys.shape))
            cache.values.copy_(torch.randn(cache.values.shape))
        q = ops.rotate_and_store(qkv.clone(), 0, layer, batch, cache)
        results.append((ops.attend(q, 0, batch, cache), cache))
    (expected, theirs), (found, mine_) = results
    assert close(found, expected)
    assert close(mine_.keys, theirs.keys)
    assert close(mine_.values, theirs.values)


@pytest.mark.parametrize("stored", DTYPES, ids=str)
@pytest.mark.parametrize("inputs", [16, 90])
def test_adapters_of_unequal_rank_in_one_step(
    native: NativeOps, dtype: torch.dtype, inputs: int, stored: torch.dtype
) -> None:
    """None of their numbers is rounded, and none takes more bytes than it needs."""
    outputs = 200
    lengthen = rand(outputs, dtype=dtype).float()
    lengthen[150:170] = 1  # where the adapter changes nothing

    def half(*size: int) -> torch.Tensor:
        return rand(*size, dtype=stored).float()

    pairs = [
        Pair(half(20, inputs), (Up(half(20, outputs)),)),
        Pair(half(7, inputs), (Up(half(5, 150)), Up(half(2, 30), 5, 170)), lengthen),
    ]
    pages = Pages()
    ours = [native.pair(pair, pages) for pair in pairs]
    assert all(isinstance(pair, Told) and pair.tensors[0].dtype == stored for pair in ours)
    x, y = rand(60, inputs, dtype=dtype) / 8, rand(60, outputs, dtype=dtype)
    spans = [(1, 3, 0), (3, 4, 1), (10, 12, 0), (15, 60, 1)]
    mine, exact = y.clone(), y.double()
    native.adapt(mine, x, [(start, end, ours[which]) for start, end, which in spans])
    for start, end, which in spans:
        adapt_segment(exact[start:end], x[start:end].double(), doubled(pairs[which]))
    assert torch.allclose(mine.double(), exact, atol=DTYPES[dtype], rtol=DTYPES[dtype])
    assert torch.equal(mine[4:10], y[4:10])


def doubled(pair: Pair) -> Pair:
    ups = [Up(up.weight.double(), up.row, up.column) for up in pair.ups]
    lengthen = None if pair.lengthen is None else pair.lengthen.double()
    return Pair(pair.down.double(), tuple(ups), lengthen)


def narrow_network(ops: TorchOps, sizes: Shape, depth: int) -> list[Layer]:
    """Layers of the same random weights, as `ops` wants them."""
    torch.manual_seed(5)

    def linear(outputs: int, inputs: int) -> Linear:
        return ops.arrange(torch.randn(outputs, inputs) / inputs**0.5)

    def norm(width: int) -> torch.Tensor:
        return 1 + torch.randn(width) / 8

    def layer() -> Layer:
        hidden, between, width = sizes.hidden, sizes.intermediate, sizes.q_width
        linears = [linear(sizes.qkv_width, hidden), linear(hidden, width)]
        linears += [linear(2 * between, hidden), linear(hidden, between)]
        norms = [norm(hidden), norm(hidden), norm(sizes.head_dim), norm(sizes.head_dim)]
        return Layer(*linears, *norms)  # type: ignore[arg-type]

    return [layer() for _ in range(depth)]


Share = tuple[int, int, int, int | None]
"""What is held, how many tokens come, how many are wanted, and the number of the adapter."""


def low_rank(sizes: Shape, depth: int) -> list[list[Pair]]:
    """Of two adapters, by layer, beside the output of attention."""

    def pair(rank: int) -> Pair:
        return Pair(rand(rank, sizes.q_width) / 8, (Up(rand(rank, sizes.hidden) / 8),))

    return [[pair(rank) for _ in range(depth)] for rank in (3, 4)]


def mixed_step(ops: TorchOps, low_ranks: list[list[Pair]]) -> list[Part]:
    """A long chunk, one that ends nowhere yet, tokens of answers, a completion that is scored."""
    places, pages = iter(range(100)), Pages()
    adapters = [
        Adapter({(layer, "o"): ops.pair(pair, pages) for layer, pair in enumerate(pairs)})
        for pairs in low_ranks
    ]
    told: list[Share] = [(30, 70, 1, 0), (0, 9, 0, 1), *[(40, 1, 1, None)] * 4, (17, 20, 7, 1)]
    parts = []
    for held, count, wanted, adapter in told:
        blocks = [next(places) for _ in range(-(-(held + count) // BLOCK))]
        chosen = None if adapter is None else adapters[adapter]
        parts.append(Part(range(count), held, blocks, wanted, chosen))
    return parts


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_step_through_all_layers_by_any_number_of_threads(made: Made, threads: int) -> None:
    """Each has tokens of its own, and all of them the same results as one thread alone."""
    sizes, depth = shape(4, 2, 16), 3
    low_ranks, radians = low_rank(sizes, depth), frequencies(sizes.rope, 16)
    found = []
    before = torch.get_num_threads()
    for ops, count in (
        (TorchOps(torch.float32, CPU), before),
        (made(torch.float32), 1),
        (made(torch.float32), threads),
    ):
        layers = narrow_network(ops, sizes, depth)
        batch = lay_out(mixed_step(ops, low_ranks), radians, CPU)
        x = torch.randn(len(batch.tokens), sizes.hidden, generator=torch.Generator().manual_seed(1))
        cache = Cache(replace(sizes, layers=depth), 100, torch.float32, CPU)
        torch.manual_seed(7)
        cache.keys.normal_()
        cache.values.normal_()
        torch.set_num_threads(count)
        try:
            found.append(ops.through(x, layers, sizes, batch, cache))
        finally:
            torch.set_num_threads(before)
    assert found[0].shape == (len(batch.wanted), sizes.hidden)
    assert torch.allclose(found[1], found[0], atol=1e-4)
    assert torch.equal(found[2], found[1])


def test_a_batch_joins_neighbours_with_the_same_adapter() -> None:
    adapter = Adapter({(0, "o"): Pair(torch.ones(1, 1), (Up(torch.ones(1, 1)),))})
    parts = [
        Part([1, 2], 0, [0], 1, adapter),
        Part([3], 0, [1], 1, adapter),
        Part([4], 0, [2], 1, None),
    ]
    batch = lay_out(parts, torch.ones(1), CPU)
    assert [(start, end) for start, end, _ in batch.segments(0, "o")] == [(0, 3)]
    assert batch.segments(0, "qkv") == []
    assert batch.wanted.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("head_dim", "dtype", "device", "fit"),
    [
        (64, torch.float32, "cpu", True),
        (64, torch.bfloat16, "cpu", True),
        (80, torch.float32, "cpu", True),
        (72, torch.float32, "cpu", False),
        (64, torch.float16, "cpu", False),
        (64, torch.float32, "cuda", False),
    ],
)
def test_what_the_kernels_compute(
    head_dim: int, dtype: torch.dtype, device: str, fit: bool
) -> None:
    assert fits(shape(4, 4, head_dim), dtype, torch.device(device)) is fit


def test_without_a_compiler_there_is_one_line_and_no_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert library() is None
    [record] = caplog.records
    assert "no C++ compiler" in record.getMessage()


def test_a_library_that_does_not_load_is_removed_and_torch_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that was cut short, or that lies where nothing may be executed."""
    cut = tmp_path / "cut.so"
    cut.write_bytes(b"\x7fELF")
    monkeypatch.setattr("trimtab.engine.ops.library", lambda: cut)
    assert pick_ops(shape(4, 4, 64), torch.float32, CPU).name == "torch"
    assert not cut.exists()
    [record] = caplog.records
    assert "do not load" in record.getMessage()


def test_a_processor_decides_between_levels_where_the_library_is_loaded(compiled: Path) -> None:
    """And takes none that it cannot run, whoever compiled them."""
    assert runs(compiled) == RUNS
    assert Compiled(compiled).level == RUNS[-1]
    for level in {*build.levels(), "avx9"} - set(RUNS):
        with pytest.raises(EngineError, match=f"does not run the kernels at {level}") as refused:
            Compiled(compiled, level)
        assert RUNS[-1] in (refused.value.hint or "")


def test_a_processor_below_every_level_computes_in_torch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The library stays: others may share it."""
    path = library()
    assert path is not None
    monkeypatch.setattr("trimtab.engine.ops.compiled._levels", lambda loaded: [])
    assert pick_ops(shape(4, 4, 64), torch.float32, CPU).level == "torch"
    assert path.exists()
    [record] = caplog.records
    assert "does not run the kernels" in record.getMessage()


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs binutils to read the library")
def test_what_the_levels_share_runs_at_the_lowest(compiled: Path) -> None:
    """Of functions that several objects hold the linker keeps one for all of them: instructions of
    a higher level in it would kill a process on a processor without them.
    """

    def told(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    names = told("nm", str(compiled)).splitlines()
    shared = {line.split()[2] for line in names if re.fullmatch(r"[0-9a-f]+ [WVu] \S+", line)}
    assert shared
    # Those of AVX and all that came after it begin with a v.
    wide = {"x86_64": re.compile(r"\tv\w+"), "aarch64": re.compile(r"\bz\d+\.")}[platform.machine()]
    within, found = "", set()
    for line in told("objdump", "-d", "--no-show-raw-insn", str(compiled)).splitlines():
        if head := re.fullmatch(r"[0-9a-f]+ <(\S+)>:", line):
            within = head[1]
        elif wide.search(line):
            found.add(within)
    assert found or len(build.levels()) == 1
    assert not shared & found


def test_weights_that_onednn_does_not_take_are_plain_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(x: torch.Tensor, blocked: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such number format")

    monkeypatch.setattr("trimtab.engine.llama.linear.multiply", refuses)
    _tell.cache_clear()
    for _ in range(2):
        assert packed(rand(4, 8)).plain is not None
    [record] = caplog.records
    assert "no such number format" in record.getMessage()


def test_source_that_does_not_compile_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    broken = tmp_path / "broken.cpp"
    broken.write_text("this is no C++")
    monkeypatch.setattr(build, "SOURCE", broken)
    assert library() is None
    [record] = caplog.records
    assert "do not compile" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert [path.name for path in (tmp_path / "cache" / "kernels").iterdir()] == ["lock"]


def test_a_library_is_of_one_source_torch_compiler_and_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a key of its own, so that none is ever loaded where another belongs. Processors of
    one architecture share it: each finds its level in it.
    """
    source = tmp_path / "kernels.cpp"
    source.write_text("")
    (tmp_path / "numbers.h").write_text("")
    compiler = tmp_path / "c++"

    def answers(version: str) -> None:
        compiler.write_text(f"#!/bin/sh\necho {version}\n")
        compiler.chmod(0o755)

    monkeypatch.setattr(build, "SOURCE", source)
    answers("one")
    keys = {build._key(str(compiler))}
    (tmp_path / "numbers.h").write_text("int changed;")
    keys.add(build._key(str(compiler)))
    answers("two")
    keys.add(build._key(str(compiler)))
    monkeypatch.setattr(torch, "__version__", "other")
    keys.add(build._key(str(compiler)))
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    keys.add(build._key(str(compiler)))
    assert len(keys) == 5


def test_a_dead_process_holds_no_lock_and_leaves_no_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was killed while it compiled."""
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    slow = tmp_path / "c++"
    slow.write_text('#!/bin/sh\n[ "$1" = --version ] || { echo begun; exec sleep 60; }\n')
    slow.chmod(0o755)
    command = [sys.executable, "-c", "from trimtab.engine.ops.build import library; library()"]
    folder = tmp_path / "cache" / "kernels"
    dying = subprocess.Popen(command, env={**os.environ, "CXX": str(slow)}, start_new_session=True)
    while not list(folder.glob("tmp*")):
        assert dying.poll() is None
        time.sleep(0.02)
    os.killpg(dying.pid, signal.SIGKILL)
    dying.wait()
    trivial = tmp_path / "source" / "kernels.cpp"
    trivial.parent.mkdir()
    trivial.write_text("")
    trivial.with_name("levels.cpp").write_text('extern "C" void nothing() {}')
    monkeypatch.setattr(build, "SOURCE", trivial)
    made = library()
    assert made is not None
    assert list(folder.glob("*.so")) == [made]


def test_several_processes_compile_it_once(tmp_path: Path) -> None:
    for name in ("kernels.cpp", "levels.cpp"):
        (tmp_path / name).write_text("")
    asks = f"""
from pathlib import Path
from trimtab.engine.ops import build
build.SOURCE = Path("{tmp_path}") / "kernels.cpp"
print(build.library())
"""
    command = [sys.executable, "-c", asks]
    compiler, log = tmp_path / "noting", tmp_path / "log"
    # So slow that the other process comes while it works.
    noted = f"echo linked >>{log}; sleep 0.3"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *-shared*) {noted};; esac\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    environment = {
        "PATH": "/usr/bin:/bin",
        "TRIMTAB_CACHE": str(tmp_path),
        "CXX": str(compiler),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = {process.communicate(timeout=300)[0].strip() for process in running}
    assert len(told) == 1
    assert Path(told.pop()).exists()
    assert len(list((tmp_path / "kernels").glob("*.so"))) == 1
    assert log.read_text().splitlines() == ["linked"]
