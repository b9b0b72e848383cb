"""Launchers: how one training becomes several processes. One file a launcher; this table says what
is true of each, and what is refused with the reason.

A run of several ranks takes the same optimizer steps as the run of one process: `train.batch_size`
is what a step sees, and the ranks share it out. Importing the table imports no torch: the project,
the plan and the command line ask it before anything is spent.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from trimtab.train.launchers import xla_place
from trimtab.train.launchers.refusal import Refusal
from trimtab.train.methods import method_of
from trimtab.train.objectives import objective_of


@dataclass(frozen=True, slots=True)
class Launcher:
    """What is true of a launcher. `module` is what it needs installed, `extra` what brings it."""

    name: str
    about: str
    module: str = ""
    extra: str = ""


@dataclass(frozen=True, slots=True)
class Sharding:
    """What is true of a way to lay one model over ranks.

    `whole`: each rank holds all weights. `offloads`: the places that state may be moved to.
    """

    name: str
    about: str
    whole: bool = True
    offloads: tuple[str, ...] = ()
    module: str = ""
    extra: str = ""


LAUNCHERS = {
    launcher.name: launcher
    for launcher in (
        Launcher("local", "one process"),
        Launcher("torchrun", "a process for each device of this machine"),
        Launcher("ray", "workers of a Ray cluster; lost ones are replaced", "ray", "ray"),
        Launcher("tpu", "one process on XLA's device, of an environment that has torch_xla"),
    )
}
SHARDINGS = {
    sharding.name: sharding
    for sharding in (
        Sharding("none", "each rank holds the whole model; gradients are averaged (DDP)"),
        Sharding("fsdp", "weights, gradients and optimizer lie in shards (FSDP2)", whole=False),
        Sharding(
            "zero2",
            "gradients and optimizer lie in shards (DeepSpeed ZeRO-2)",
            offloads=("cpu",),
            module="deepspeed",
            extra="deepspeed",
        ),
        Sharding(
            "zero3",
            "weights, gradients and optimizer lie in shards (DeepSpeed ZeRO-3)",
            whole=False,
            offloads=("cpu", "nvme"),
            module="deepspeed",
            extra="deepspeed",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Launch:
    """How a run is launched: by whom, in how many ranks, what lies in shards, and where state that
    the device has no room for goes (`none`, `cpu`, `nvme`).
    """

    kind: str = "local"
    ranks: int = 1
    sharding: str = "none"
    offload: str = "none"

    @property
    def alone(self) -> bool:
        return self.kind == "local"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        if self.alone:
            return "one process"
        if self.kind == "tpu":
            return "tpu"
        shards = {"none": "ddp"}.get(self.sharding, self.sharding)
        where = "" if self.offload == "none" else f", offload to {self.offload}"
        return f"{self.kind}, {self.ranks} x {shards}{where}"


LOCAL = Launch()


def refusals(
    launch: Launch, objective: str, method: str, batch: int, early: bool
) -> Iterator[Refusal]:
    """Every reason against a launch, known before anything is spent; none where it is open.

    `batch` is the rows of one, or its prompts where the answers to one are compared; `early`:
    whether the run may end at its best checkpoint.
    """
    if launch.alone:
        if launch != LOCAL:
            yield Refusal(
                "one process has nothing to shard or offload", "set train.launcher.kind to torchrun"
            )
        return
    if launch.kind == "tpu":
        if launch != Launch("tpu"):
            yield Refusal(
                "one process drives XLA's device, and nothing is cut",
                "leave ranks, sharding and offload out",
            )
        yield from xla_place.refusals(objective, method)
        return
    if launch.ranks < 1:
        yield Refusal(f"{launch.ranks} ranks are none", "set train.launcher.ranks to 1 or more")
        return
    yield from _missing(launch)
    yield from _misplaced(launch)
    if batch % launch.ranks:
        yield _uneven(launch.ranks, batch, objective_of(objective).rollouts)
    elif objective == "kto" and batch < 2 * launch.ranks:
        yield Refusal(
            "kto needs two rows of each batch in each rank: TRL takes no fewer",
            "set train.batch_size to twice train.launcher.ranks or more",
        )
    if early and launch.sharding != "none":
        yield Refusal(
            "the best checkpoint is not read back into shards",
            "leave train.patience out, or set train.launcher.sharding to none",
        )
    yield from _alone(launch, objective, method)


def _uneven(ranks: int, batch: int, answered: bool) -> Refusal:
    if not answered:
        return Refusal(
            f"a batch of {batch} is not shared out evenly among {ranks} ranks",
            "set train.batch_size to a multiple of train.launcher.ranks",
        )
    return Refusal(
        f"the answers to {batch} prompts, compared by prompt, are not shared out evenly among "
        f"{ranks} ranks",
        "set train.batch_size to a multiple of ranks times train.extra.num_generations",
    )


def _missing(launch: Launch) -> Iterator[Refusal]:
    """What is not installed here."""
    for part in (LAUNCHERS[launch.kind], SHARDINGS[launch.sharding]):
        if part.module and importlib.util.find_spec(part.module) is None:
            yield Refusal(f"{part.module} is not installed", f"pip install 'trimtab[{part.extra}]'")


def _misplaced(launch: Launch) -> Iterator[Refusal]:
    """Shards and offloads that do not go together."""
    places = SHARDINGS[launch.sharding].offloads
    if launch.offload != "none" and launch.offload not in places:
        other = "zero2 or zero3" if launch.offload == "cpu" else "zero3"
        yield Refusal(
            f"{launch.sharding} offloads nothing to {launch.offload}",
            f"set train.launcher.sharding to {other}",
        )
    if launch.offload == "nvme" and launch.ranks > 1:
        yield Refusal(
            "offload to nvme on several ranks gave wrong losses in each of four trials",
            "set train.launcher.ranks to 1, or offload to cpu",
        )


def _alone(launch: Launch, objective: str, method: str) -> Iterator[Refusal]:
    """Objectives and methods whose step cannot be shared out, or not by this sharding."""
    if not SHARDINGS[launch.sharding].whole and objective_of(objective).rollouts:
        yield Refusal(
            f"{objective} samples answers token by token, and {launch.sharding} would gather every "
            "weight for each token",
            "set train.launcher.sharding to none or zero2",
        )
    if not SHARDINGS[launch.sharding].whole and method == "bottleneck":
        yield Refusal(
            f"a bottleneck hangs beside the model, where {launch.sharding} does not cut it",
            "set train.launcher.sharding to none",
        )
    if not SHARDINGS[launch.sharding].whole and method_of(method).quantised:
        yield Refusal(
            f"{launch.sharding} cannot cut weights of 4 bits: each rank would hold them all",
            "set train.launcher.sharding to none",
        )
