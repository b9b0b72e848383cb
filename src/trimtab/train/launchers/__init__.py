"""Launchers: how one training becomes several processes. One file a launcher; this table says what
is true of each, and what is refused with the reason.

A run of several ranks takes the same optimizer steps as the run of one process: `train.batch_size`
is what a step sees, and the ranks share it out. Importing the table imports no torch: the project,
the plan and the command line ask it before anything is spent.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from trimtab.train.methods import method_of
from trimtab.train.objectives import objective_of


@dataclass(frozen=True, slots=True)
class Launcher:
    """What is true of a launcher."""

    name: str
    about: str


@dataclass(frozen=True, slots=True)
class Sharding:
    """What is true of a way to lay one model over ranks.

    `whole`: each rank holds all weights.
    """

    name: str
    about: str
    whole: bool = True


LAUNCHERS = {
    launcher.name: launcher
    for launcher in (
        Launcher("local", "one process"),
        Launcher("torchrun", "a process for each device of this machine"),
    )
}
SHARDINGS = {
    sharding.name: sharding
    for sharding in (
        Sharding("none", "each rank holds the whole model; gradients are averaged (DDP)"),
        Sharding("fsdp", "weights, gradients and optimizer lie in shards (FSDP2)", whole=False),
    )
}


@dataclass(frozen=True, slots=True)
class Launch:
    """How a run is launched: by whom, in how many ranks, and what lies in shards."""

    kind: str = "local"
    ranks: int = 1
    sharding: str = "none"

    @property
    def alone(self) -> bool:
        return self.kind == "local"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        if self.alone:
            return "one process"
        shards = {"none": "ddp"}.get(self.sharding, self.sharding)
        return f"{self.kind}, {self.ranks} x {shards}"


LOCAL = Launch()


class Refusal(NamedTuple):
    """Why something is not open, and what would be."""

    reason: str
    hint: str


def refusals(launch: Launch, objective: str, method: str, batch_size: int) -> Iterator[Refusal]:
    """Every reason against a launch, known before anything is spent; none where it is open."""
    if launch.alone:
        if launch.ranks != 1 or launch.sharding != "none":
            yield Refusal("one process has nothing to shard", "set train.launcher.kind to torchrun")
        return
    if launch.ranks < 1:
        yield Refusal(f"{launch.ranks} ranks are none", "set train.launcher.ranks to 1 or more")
        return
    if batch_size % launch.ranks:
        yield Refusal(
            f"a batch of {batch_size} is not shared out evenly among {launch.ranks} ranks",
            "set train.batch_size to a multiple of train.launcher.ranks",
        )
    yield from _alone(launch, objective, method)


def _alone(launch: Launch, objective: str, method: str) -> Iterator[Refusal]:
    """Objectives and methods whose step cannot be shared out, or not by this sharding."""
    if launch.ranks > 1 and objective_of(objective).rollouts:
        yield Refusal(
            f"{objective} draws its answers from one stream of random numbers, in one process",
            "leave train.launcher out",
        )
    if launch.ranks > 1 and objective == "kto":
        yield Refusal(
            "kto holds each row against the mean of its whole batch, which no rank sees",
            "leave train.launcher out, or set train.objective to dpo",
        )
    if not SHARDINGS[launch.sharding].whole and method_of(method).quantised:
        yield Refusal(
            f"{launch.sharding} cannot cut weights of 4 bits: each rank would hold them all",
            "set train.launcher.sharding to none",
        )
