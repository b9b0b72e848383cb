"""Starts the ranks of a run and stops them all when one ends badly: torchrun, as a child of ours.

`python -m trimtab.train.launchers.agent RUN --parent-fd N`. Imports torch.
"""

import os
import sys
import uuid
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from trimtab.child import leave_with_parent
from trimtab.train.launchers.job import Desk, Job

# How long ranks that are told to end have to save.
GRACE_S = 60


def main(run: Path, parent_fd: int) -> int:
    leave_with_parent(parent_fd)
    desk = Desk(run)
    ranks = Job.load(desk.job).settings.launch.ranks
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // ranks)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(desk.log), redirects=Std.ALL),
        shutdown_timeout=GRACE_S,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "trimtab.train.launchers.rank", str(run))
    except ChildFailedError as error:
        desk.lose({rank: failure.exitcode for rank, failure in error.failures.items()})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[3])))
