"""How a step is shared out to a GPU and filled up to the size of a graph, without a GPU."""

import pytest
import torch

from tests.engine.test_ops import shape
from trimtab.engine.continuous.batch import Batch, Part, lay_out
from trimtab.engine.continuous.blocks import BLOCK
from trimtab.engine.continuous.cache import Cache
from trimtab.engine.continuous.room import GPU_RUNNING
from trimtab.engine.llama.lora import Adapter
from trimtab.engine.ops.cuda.graphs import SIZES, Graphs, Replay, Work
from trimtab.engine.ops.cuda.step import Step, step
from trimtab.engine.ops.cuda.tiles import attention, patches, rows_for

CPU = torch.device("cpu")
GROUP = 3
SHAPE = shape(6, 2, 16)


def recomputed(work: Work) -> tuple[Replay, torch.Tensor]:
    """What a graph is where there is no GPU: the same computation over the same room."""
    out = work()

    def replay() -> None:
        out.copy_(work())

    return replay, out


class Sum:
    """A network of one number a token, that depends on all that a step is told."""

    def __init__(self) -> None:
        self.recorded = 0

    def record(self, work: Work) -> tuple[Replay, torch.Tensor]:
        self.recorded += 1
        return recomputed(work)

    def compute(self, x: torch.Tensor, layers: object, given: Step, cache: Cache) -> torch.Tensor:
        out = x + (given.places + given.rotations[0].sum(1)).unsqueeze(1)
        for row, count, sequence, first in given.tiles.places.tolist():
            assert count * GROUP <= given.tiles.rows
            out[row : row + count] += first + given.tables[sequence, 0]
        if given.patches is not None:
            for row, count, table in given.patches.places.tolist():
                out[row : row + count] *= 1 + table % 7
        return out


def a_step(
    spans: list[tuple[int, int]], adapters: list[Adapter | None], rank: int = 16
) -> tuple[Batch, Step]:
    """Of sequences that hold so much and give so much."""
    parts = [
        Part(range(count), held, list(range(5 + i, 5 + i - (-(held + count) // BLOCK))), 0, adapter)
        for i, ((held, count), adapter) in enumerate(zip(spans, adapters, strict=True))
    ]
    batch = lay_out(parts, torch.ones(8), CPU)
    used = {adapter: torch.zeros(1) for adapter in adapters if adapter is not None}
    return batch, step(batch, GROUP, used, rank if used else 0)


def test_a_graph_computes_what_the_step_alone_does_whatever_was_in_its_room() -> None:
    one, other = Adapter({}), Adapter({})
    network = Sum()
    graphs = Graphs(network.compute, network.record)
    cache = Cache(SHAPE, 4, torch.float32, CPU)
    steps = [
        a_step([(3, 1)] * 7, [one, one, None, other, other, None, None]),
        a_step([(40, 1), (9, 1), (2, 1)], [None, other, other]),
        a_step([(0, 50), (70, 1), (3, 9), (0, 4)], [one, None, one, other]),
        a_step([(0, 64)], [other]),
        a_step([(17, 2), (1, 5)], [None, None]),
        a_step([(0, 1)], [None]),
        a_step([(5, 1)] * 5, [one] * 5),
    ]
    for batch, given in (*steps, *reversed(steps)):
        x = torch.randn(len(batch.tokens), 2)
        expected = network.compute(x.clone(), (), given, cache)
        assert torch.equal(graphs.through(x, (), given, cache), expected)  # type: ignore[arg-type]
    # Of 8 tokens with adapters and without, of 4, 64 and 1.
    assert network.recorded == 5


def test_what_is_too_large_for_a_graph_is_left_to_others() -> None:
    network = Sum()
    graphs = Graphs(network.compute, network.record)
    cache = Cache(SHAPE, 4, torch.float32, CPU)
    for spans in ([(0, SIZES[-1] + 1)], [(0, 1)] * (GPU_RUNNING + 1)):
        batch, given = a_step(spans, [None] * len(spans))
        x = torch.randn(len(batch.tokens), 2)
        assert graphs.through(x, (), given, cache) is None
    assert not network.recorded


def test_what_was_captured_for_a_smaller_rank_goes_when_a_larger_one_comes() -> None:
    """And not before: what graphs share goes with the last of them. What has no adapter stays."""
    network, alive = Sum(), []
    graphs = Graphs(network.compute, network.record)
    cache = Cache(SHAPE, 4, torch.float32, CPU)
    for rank in (16, 16, 64, 64):
        for adapters in ([None, None], [Adapter({}), None], [Adapter({})]):
            batch, given = a_step([(3, 1)] * len(adapters), adapters, rank)
            graphs.through(torch.randn(len(batch.tokens), 2), (), given, cache)
            alive.append(len(graphs._captured))
    assert alive == [1, 2, 3, 3, 3, 3, 3, 2, 3, 3, 3, 3]
    assert network.recorded == 5


def test_a_graph_that_has_no_room_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """Its steps are launched one by one, and nobody's answer fails."""
    tried = []

    def record(work: Work) -> tuple[Replay, torch.Tensor]:
        tried.append(work)
        raise torch.OutOfMemoryError("no room")

    graphs = Graphs(Sum().compute, record)
    cache = Cache(SHAPE, 4, torch.float32, CPU)
    _, given = a_step([(3, 1)], [None])
    for _ in range(2):
        assert graphs.through(torch.randn(1, 2), (), given, cache) is None
    assert len(tried) == 1
    assert len(caplog.records) == 1


def test_tiles_take_every_token_once() -> None:
    spans = [(0, 1), (1, 50), (50, 51), (51, 180)]
    counts = [9, 49, 300, 200]
    for group in (1, 3, 4, 16):
        rows = rows_for(129, group)
        tiles = attention(spans, counts, group, rows)
        tokens = [row + i for row, count, _, _ in tiles for i in range(count)]
        assert tokens == list(range(180))
        for row, count, sequence, first in tiles:
            begin, end = spans[sequence]
            assert count * group <= rows
            assert first == counts[sequence] - (end - begin) + (row - begin)
    assert [rows_for(1, 1), rows_for(1, 16), rows_for(1, 17), rows_for(6, 3), rows_for(1, 71)] == [
        16,
        16,
        64,
        64,
        128,
    ]
    told = [(2, 2, 11), (5, 16, 12), (21, 16, 12), (37, 3, 12)]
    assert patches([(2, 4, 11), (5, 40, 12)], 16) == told
