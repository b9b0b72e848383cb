"""Two ranks for each run whose job lies in a folder, one run after the other.

python -m tests.train.ranks, and a folder a line on its input, behind a tab the bytes that a file
may have: it imports while nobody asks yet.

The libraries are imported once and the ranks are forks, so that a test of ten runs waits for one
import; how the ranks of a user's run are started is torchrun's, and tested apart.
"""

import gc
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path

from tests.train.conftest import DIALOGUES, notes_of, overheard
from trimtab.train.launchers import rank
from trimtab.train.launchers.job import Desk, Job
from trimtab.train.launchers.scores import POLL_S, Telling
from trimtab.train.online.rewards import over


def main() -> None:
    # No collection walks over what is imported: neither here, nor in a rank, which would copy it.
    gc.disable()
    import torch
    import trl.trainer.dpo_trainer
    import trl.trainer.grpo_trainer
    import trl.trainer.rloo_trainer
    import trl.trainer.sft_trainer  # noqa: F401

    import trimtab.train.launchers.fsdp
    import trimtab.train.launchers.ranked  # noqa: F401

    gc.freeze()
    gc.enable()
    torch.set_num_threads(1)
    for line in sys.stdin:
        run, _, room = line.strip().partition("\t")
        both(Path(run), int(room or resource.RLIM_INFINITY))


def both(run: Path, room: int) -> None:
    """Start the ranks of a run, tell them what their answers are worth, and wait for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = Job.load(Desk(run).job).settings.launch.ranks
    children = []
    for number in range(ranks):
        child = os.fork()
        if not child:
            # Past this limit a write fails with EFBIG instead of killing the process.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            os.environ |= {
                "RANK": str(number),
                "LOCAL_RANK": str(number),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            os._exit(rank.main(run))
        children.append(child)
    telling = Telling(Desk(run), [over(overheard(notes_of(run)), DIALOGUES)])
    while children:
        telling.tell()
        children = [child for child in children if os.waitpid(child, os.WNOHANG) == (0, 0)]
        time.sleep(POLL_S)


if __name__ == "__main__":
    main()
