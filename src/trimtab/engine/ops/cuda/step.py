"""What the layers of a step read beside the tokens themselves, made once a step."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from trimtab.engine.continuous.batch import Batch
from trimtab.engine.llama.lora import Adapter
from trimtab.engine.ops.cuda.tiles import ROWS, Tiles, attention, patches, rows_for


@dataclass(frozen=True, slots=True)
class Step:
    """`places` (tokens,) are where keys and values go. `patches` are the tiles of adapted tokens,
    None where there are none, and `rank` is the most rows that a narrowing half of theirs has.
    """

    places: torch.Tensor
    rotations: tuple[torch.Tensor, torch.Tensor]
    tiles: Tiles
    tables: torch.Tensor
    patches: Tiles | None
    rank: int

    def on(self, device: torch.device) -> "Step":
        """With its tiles there, which are made on the CPU."""
        moved = None if self.patches is None else self.patches.on(device)
        return replace(self, tiles=self.tiles.on(device), patches=moved)


def step(batch: Batch, group: int, tables: Mapping[Adapter, torch.Tensor], rank: int) -> Step:
    """`group` heads share a head of keys; `tables` are those of the adapters, which have `rank`
    rows at most.
    """
    rows = rows_for(_longest(batch.spans), group)
    shared_out = attention(batch.spans, batch.counts, group, rows)
    tiles = Tiles(torch.tensor(shared_out, dtype=torch.int32), rows)
    patched = _patches(batch, tables)
    return Step(batch.places, batch.rotations, tiles, batch.tables, patched, rank)


def _patches(batch: Batch, tables: Mapping[Adapter, torch.Tensor]) -> Tiles | None:
    if not batch.adapted:
        return None
    # Many answers with one adapter are neighbours; how many they are decides no shape.
    rows = ROWS[0] if _longest(batch.spans) == 1 else ROWS[1]
    places = [(start, end, tables[adapter].data_ptr()) for start, end, adapter in batch.adapted]
    return Tiles(torch.tensor(patches(places, rows), dtype=torch.int64), rows)


def _longest(spans: list[tuple[int, int]]) -> int:
    return max(end - start for start, end in spans)
