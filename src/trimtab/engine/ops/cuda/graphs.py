"""Steps of one token a sequence as CUDA graphs: a launch costs more than such a step computes.

A graph is captured when its size is first needed, for the next power of two of sequences; those
that are missing are told to be nobody. So a step is always computed by the same kernels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trimtab.engine.blocks import BLOCK
from trimtab.engine.cache import Cache
from trimtab.engine.ops.cuda.step import Step
from trimtab.engine.ops.cuda.tiles import Tiles
from trimtab.engine.weights import Layer

Compute = Callable[[torch.Tensor, Sequence[Layer], Step, Cache], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Captured:
    """A graph reads `x` and `given`, and writes `out`."""

    graph: torch.cuda.CUDAGraph
    x: torch.Tensor
    given: Step
    out: torch.Tensor


class Graphs:
    """Those of one network over one cache, which are the same at each call."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._captured: dict[tuple[int, int], Captured] = {}
        self._pool: Any = None

    def through(
        self, x: torch.Tensor, layers: Sequence[Layer], given: Step, cache: Cache
    ) -> torch.Tensor:
        """What `compute` makes of it; it holds until the next call."""
        count = len(x)
        size = 1 << (count - 1).bit_length()
        key = (size, given.rank)
        if (captured := self._captured.get(key)) is None:
            captured = self._captured[key] = self._capture(size, x, layers, given, cache)
        _fill(captured, x, given)
        captured.graph.replay()
        return captured.out[:count]

    def _capture(
        self, size: int, x: torch.Tensor, layers: Sequence[Layer], given: Step, cache: Cache
    ) -> Captured:
        room = _room(size, x, given, cache)
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        aside = x.new_zeros(size, x.shape[1])
        stream: torch.cuda.Stream = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(stream):
            # Nobody's tokens: what is compiled or chosen at the first use, is so before.
            self._compute(aside, layers, room, cache)
        torch.cuda.current_stream(x.device).wait_stream(stream)
        # What other threads do with the device, such as load, does not end the capture.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
        ):
            out = self._compute(aside, layers, room, cache)
        return Captured(graph, aside, room, out)


def _room(size: int, x: torch.Tensor, given: Step, cache: Cache) -> Step:
    """A step of `size` tokens that are nobody's, each a sequence of its own."""
    device = x.device
    blocks = -(-cache.shape.context // BLOCK)
    cos, sin = given.rotations
    patches = None
    if given.patches is not None:
        empty = torch.zeros(size, 3, dtype=torch.int64, device=device)
        patches = Tiles(empty, given.patches.rows)
    return Step(
        torch.full((size,), -1, dtype=given.places.dtype, device=device),
        (cos.new_ones(size, cos.shape[1]), sin.new_zeros(size, sin.shape[1])),
        Tiles(torch.zeros(size, 4, dtype=torch.int32, device=device), given.tiles.rows),
        torch.zeros(size, blocks, dtype=torch.int32, device=device),
        patches,
        given.rank,
    )


def _fill(captured: Captured, x: torch.Tensor, given: Step) -> None:
    room, count = captured.given, len(x)
    captured.x[:count] = x
    room.places[:count] = given.places
    for mine, told in zip(room.rotations, given.rotations, strict=True):
        mine[:count] = told
    room.tables[:count, : given.tables.shape[1]] = given.tables
    room.tiles.places[:count] = given.tiles.places
    if count < len(room.places):
        room.places[count:] = -1
        room.tiles.places[count:] = 0
    if room.patches is not None and given.patches is not None:
        filled = len(given.patches.places)
        room.patches.places[:filled] = given.patches.places
        room.patches.places[filled:] = 0
