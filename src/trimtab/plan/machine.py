"""The hardware profile of one machine. Its rate of computing is measured elsewhere and given."""

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True)
class Machine:
    """What can be trained on. `memory` is in bytes, and of each of the `devices` that compute.

    `rate` is floating-point operations a second of a matrix product in `dtype`; `usd_hour` is 0 on
    one's own machine.
    """

    name: str
    device: str
    dtype: str
    cores: int
    memory: int
    rate: float
    usd_hour: float = 0.0
    devices: int = 1

    def holding(self, devices: int) -> int:
        """How many machines like this one so many devices lie in."""
        return -(-devices // self.devices)


def this_machine(
    *,
    device: str,
    dtype: str,
    rate: float,
    device_memory: int = 0,
    usd_hour: float = 0.0,
    devices: int = 1,
) -> Machine:
    """This machine, with the memory that is free to use now.

    `device_memory` is an accelerator's own, in bytes; 0 means the host's memory counts, which
    several processes share.
    """
    return Machine(
        name="this machine",
        device=device,
        dtype=dtype,
        cores=len(os.sched_getaffinity(0)),
        memory=device_memory or _free_memory(),
        rate=rate,
        usd_hour=usd_hour,
        devices=devices,
    )


def _free_memory() -> int:
    free = psutil.virtual_memory().available
    if CGROUP_LIMIT.is_file():
        limit = CGROUP_LIMIT.read_text().strip()
        if limit != "max":
            return min(free, int(limit))
    return free
