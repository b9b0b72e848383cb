"""The ranks of a run, as one of them sees the others. Imports torch.

transformers' Trainer and accelerate are not told of the other ranks: on a CPU they turn FSDP into
DDP without a word, and they share batches out by rules of their own. In each rank a trainer works
as if it were alone, on the rank's own rows, and what ranks do together goes through a crew.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from trimtab.errors import UserError
from trimtab.train.share import Share

# What tells accelerate, DeepSpeed and transformers that they are not alone.
TOLD = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")

VISIBLE = "CUDA_VISIBLE_DEVICES"


def own_device(visible: str | None, local: int) -> str:
    """The device of a machine's rank `local`, of those that are `visible`: all where None."""
    if visible is None:
        return str(local)
    devices = visible.split(",")
    return devices[local] if local < len(devices) else ""


@dataclass(frozen=True, slots=True)
class Crew:
    """Rank `rank` of `ranks`; the first one writes the run's folder, the others write nothing."""

    rank: int
    ranks: int

    @classmethod
    def join(cls) -> "Crew":
        """Meet the others as the environment says (`torchrun`'s variables), or as a launcher that
        has met them already; each rank sees one CUDA device, its own. Raises UserError where it
        sees several.
        """
        if not dist.is_initialized():
            # Told of no other ranks, transformers takes the first device that it sees, and all that
            # it sees for a batch. CUDA reads this when it is first asked for anything.
            local = int(os.environ["LOCAL_RANK"])
            os.environ[VISIBLE] = own_device(os.environ.get(VISIBLE), local)
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        if (seen := torch.cuda.device_count()) > 1:
            raise UserError(
                f"a rank sees {seen} CUDA devices, and would share its rows out among all of them",
                hint=f"let what starts the ranks set {VISIBLE} to one device for each",
            )
        for name in TOLD:
            os.environ.pop(name, None)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def share(self) -> Share:
        return Share(self.rank, self.ranks)

    def wait(self) -> None:
        """Until every rank is here."""
        dist.barrier()

    def told(self, said: Any) -> Any:
        """What the first rank says, to every rank: plain values."""
        box = [said]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def everyone(self, said: Any) -> list[Any]:
        """What each rank says, by rank: plain values."""
        box: list[Any] = [None] * self.ranks
        dist.all_gather_object(box, said)
        return box

    def means(self, values: Mapping[str, float], weight: float = 1.0) -> dict[str, float]:
        """The mean over ranks of what each of them names, each by its weight."""
        said = self.everyone((dict(values), weight))
        whole = sum(each for _, each in said)
        return {
            name: sum(found[name] * each for found, each in said) / whole
            for name in values
            if all(name in found for found, _ in said)
        }

    def leave(self) -> None:
        dist.destroy_process_group()
