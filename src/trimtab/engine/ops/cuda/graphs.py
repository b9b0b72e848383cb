"""Steps of few tokens as CUDA graphs: to launch one kernel after the other takes longer than such a
step computes.

A graph is captured when its size is first needed. What a step has less than that is filled up with
tokens, tiles and sequences that are nobody's. So a step of one size is always computed by the same
kernels.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from trimtab.engine.continuous.blocks import BLOCK
from trimtab.engine.continuous.cache import Cache
from trimtab.engine.continuous.room import GPU_RUNNING
from trimtab.engine.llama.weights import Layer
from trimtab.engine.ops.cuda.step import Step
from trimtab.engine.ops.cuda.tiles import Tiles

log = logging.getLogger(__name__)

SIZES = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Tokens of a graph. Longer steps compute longer than they are launched."""

Compute = Callable[[torch.Tensor, Sequence[Layer], Step, Cache], torch.Tensor]
Replay = Callable[[], None]
Work = Callable[[], torch.Tensor]
Record = Callable[[Work], tuple[Replay, torch.Tensor]]


class Key(NamedTuple):
    size: int
    rows: int
    patch_rows: int
    rank: int


@dataclass(frozen=True, slots=True)
class Captured:
    """`replay` reads `x` and `given`, and writes `out`."""

    replay: Replay
    x: torch.Tensor
    given: Step
    out: torch.Tensor


class Graphs:
    """Those of one network over one cache, which are the same at each call. `record` makes a graph
    of a computation.
    """

    def __init__(self, compute: Compute, record: Record) -> None:
        self._compute = compute
        self._record = record
        self._captured: dict[Key, Captured] = {}
        self._refused: set[Key] = set()

    def through(
        self, x: torch.Tensor, layers: Sequence[Layer], given: Step, cache: Cache
    ) -> torch.Tensor | None:
        """What `compute` makes of it, until the next call; None where a step is too large, or the
        device has no memory for its graph.
        """
        size = next((size for size in SIZES if size >= len(x)), None)
        if size is None or len(given.tables) > min(size, GPU_RUNNING):
            return None
        patches = given.patches
        key = Key(size, given.tiles.rows, 0 if patches is None else patches.rows, given.rank)
        if key in self._refused:
            return None
        if (captured := self._captured.get(key)) is None:
            try:
                captured = self._make(key, x, layers, given, cache)
            except torch.OutOfMemoryError as error:
                log.warning("steps of %d tokens are launched one by one: %s", size, error)
                self._refused.add(key)
                return None
            self._keep(key, captured)
        _fill(captured, x, given)
        captured.replay()
        return captured.out[: len(x)]

    def _keep(self, key: Key, captured: Captured) -> None:
        """The largest rank never falls: what was captured for a smaller one is of no more use. It
        goes after the new one came, for the last graph would take their common memory with it.
        """
        self._captured[key] = captured
        for stale in [known for known in self._captured if 0 < known.rank < key.rank]:
            del self._captured[stale]

    def _make(
        self, key: Key, x: torch.Tensor, layers: Sequence[Layer], given: Step, cache: Cache
    ) -> Captured:
        room = _room(key, x, given, cache)
        aside = x.new_zeros(key.size, x.shape[1])
        replay, out = self._record(lambda: self._compute(aside, layers, room, cache))
        return Captured(replay, aside, room, out)


class Recorder:
    """Makes CUDA graphs that share their memory, for one is replayed at a time."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def __call__(self, work: Work) -> tuple[Replay, torch.Tensor]:
        """`work` as a graph, and where its result lies."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            # What is compiled or chosen at the first use, is so before.
            work()
            torch.cuda.synchronize()
            # What other threads do with the device, such as load, does not end the capture.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                out = work()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        return graph.replay, out


def _room(key: Key, x: torch.Tensor, given: Step, cache: Cache) -> Step:
    """A step of `key.size` tokens that are nobody's."""
    device, shape = x.device, cache.shape
    sequences = min(key.size, GPU_RUNNING)
    cos, sin = given.rotations
    width = key.rows // (shape.heads // shape.kv_heads)
    tiles = torch.zeros(sequences + key.size // width, 4, dtype=torch.int32, device=device)
    patches = None
    if given.patches is not None:
        most = sequences + key.size // key.patch_rows
        places = torch.zeros(most, 3, dtype=torch.int64, device=device)
        patches = Tiles(places, key.patch_rows)
    return Step(
        torch.full((key.size,), -1, dtype=given.places.dtype, device=device),
        (cos.new_ones(key.size, cos.shape[1]), sin.new_zeros(key.size, sin.shape[1])),
        Tiles(tiles, key.rows),
        torch.zeros(sequences, -(-shape.context // BLOCK), dtype=torch.int32, device=device),
        patches,
        given.rank,
    )


def _fill(captured: Captured, x: torch.Tensor, given: Step) -> None:
    room, count = captured.given, len(x)
    captured.x[:count] = x
    room.places[:count] = given.places
    if count < len(room.places):
        room.places[count:] = -1
    for mine, told in zip(room.rotations, given.rotations, strict=True):
        mine[:count] = told
    sequences, blocks = given.tables.shape
    room.tables[:sequences, :blocks] = given.tables
    _copy(room.tiles, given.tiles)
    if room.patches is not None and given.patches is not None:
        _copy(room.patches, given.patches)


def _copy(room: Tiles, told: Tiles) -> None:
    """Of the CPU's to the device's; what is more there is emptied."""
    filled = torch.zeros(room.places.shape, dtype=told.places.dtype)
    filled[: len(told.places)] = told.places
    room.places.copy_(filled)
