"""How a run lies over the devices of a machine: chosen by how many there are and what they hold.

The first of these that fits is taken: one device; each device with the whole model; weights,
gradients and optimizer in shards; the same with all but one layer in the host's memory. What the
first step needs is told by `memory`; traffic between devices is not counted.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any

from trimtab.plan.machine import Machine
from trimtab.plan.memory import Memory

# A prediction may be wrong by this much before a device runs out of memory.
USABLE = 0.9


@dataclass(frozen=True, slots=True)
class Spread:
    """`kind` launches `ranks` processes; `sharding` and `offload` say where state lies; `why` says
    how it was chosen.
    """

    kind: str = "local"
    ranks: int = 1
    sharding: str = "none"
    offload: str = "none"
    why: str = "one process"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        if self.kind == "local":
            return "one process"
        shards = "ddp" if self.sharding == "none" else self.sharding
        where = "" if self.offload == "none" else f", offload to {self.offload}"
        return f"{self.kind}, {self.ranks} x {shards}{where}"

    def devices(self, machine: Machine) -> int:
        """The devices that the ranks lie on: of a cluster of GPUs Ray gives each worker its own."""
        return self.ranks if self.kind == "ray" and machine.device != "cpu" else machine.devices


ALONE = Spread()


def choose(memory: Memory, machine: Machine, batch_size: int, shardings: Collection[str]) -> Spread:
    """The spread of a run that needs `memory` in one process; `shardings` are those that are open
    to it, none where it cannot be shared out at all.
    """
    ranks = max(n for n in range(1, machine.devices + 1) if batch_size % n == 0)
    if fits(memory, machine) and (ranks == 1 or not shardings):
        many = "" if machine.devices == 1 else f" of {machine.devices} that can be used"
        return replace(ALONE, why=f"it fits one device{many}")
    for spread in _spreads(ranks, machine):
        if spread.sharding in shardings and fits(held(memory, spread, machine.devices), machine):
            return spread
    return replace(ALONE, why="no spread over the devices fits either")


def _spreads(ranks: int, machine: Machine) -> list[Spread]:
    found: list[Spread] = []
    if ranks > 1:
        found = [
            Spread("torchrun", ranks, "none", why=f"{ranks} devices, and the model fits each"),
            Spread("torchrun", ranks, "fsdp", why=f"it fits {ranks} devices in shards alone"),
        ]
    if machine.device != "cpu":
        why = "it fits with what is not computed with in the host's memory"
        found.append(Spread("torchrun", ranks, "zero3", "cpu", why))
    return found


def held(memory: Memory, spread: Spread, devices: int = 1) -> Memory:
    """What a device holds: of each of its ranks the share of a batch, and the state that lies
    there. More ranks than devices share those.
    """
    crowd = -(-spread.ranks // devices)
    rank = _of_a_rank(memory, spread)
    return Memory(**{name: amount * crowd for name, amount in asdict(rank).items()})


def _of_a_rank(memory: Memory, spread: Spread) -> Memory:
    parts = spread.ranks

    def part(amount: int, of: int) -> int:
        return -(-amount // of)

    whole = replace(
        memory, activations=part(memory.activations, parts), logits=part(memory.logits, parts)
    )
    if spread.sharding == "none":
        return whole
    # In a step the weights of one layer after the other are gathered: a tenth covers one and the
    # embeddings of what is large enough to be sharded.
    gathered = part(memory.weights + memory.trained, 10)
    stays = spread.sharding == "zero2"
    off = spread.offload != "none"
    weights = memory.weights if stays else 0 if off else part(memory.weights, parts)
    trained = memory.trained if stays else 0 if off else part(memory.trained, parts)
    return replace(
        whole,
        weights=weights + (0 if stays else gathered),
        trained=trained,
        gradients=part(memory.gradients, parts),
        optimizer=0 if off else part(memory.optimizer, parts),
    )


def fits(memory: Memory, machine: Machine) -> bool:
    return memory.total <= USABLE * machine.memory
