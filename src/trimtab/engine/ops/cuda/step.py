"""What the layers of a step read beside the tokens themselves, on the device, made once a step."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from trimtab.engine.batch import Batch
from trimtab.engine.lora import Adapter
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


def is_single(batch: Batch) -> bool:
    """Whether every sequence gives one token."""
    return len(batch.spans) == len(batch.tokens)


def step(batch: Batch, group: int, tables: Mapping[Adapter, torch.Tensor], rank: int) -> Step:
    """`group` heads share a head of keys; `tables` are those of the adapters."""
    device = batch.tokens.device
    rows = rows_for(max(end - start for start, end in batch.spans), group)
    shared_out = attention(batch.spans, batch.counts, group, rows)
    return Step(
        batch.places,
        batch.rotations,
        Tiles(torch.tensor(shared_out, dtype=torch.int32).to(device), rows),
        batch.tables,
        _patches(batch, tables),
        rank,
    )


def _patches(batch: Batch, tables: Mapping[Adapter, torch.Tensor]) -> Tiles | None:
    if not batch.adapted:
        return None
    longest = max(end - start for start, end, _ in batch.adapted)
    rows = ROWS[0] if is_single(batch) else rows_for(longest)
    places = [(start, end, tables[adapter].data_ptr()) for start, end, adapter in batch.adapted]
    made = torch.tensor(patches(places, rows), dtype=torch.int64)
    return Tiles(made.to(batch.tokens.device), rows)
