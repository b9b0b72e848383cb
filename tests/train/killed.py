"""Train in a process of its own that kills itself, or meets a full device, as its arguments say.

python -m tests.train.killed BASE FOLDER --at STEP | --room BYTES
"""

import argparse
import os
import resource
import signal
from pathlib import Path

from tests.train.conftest import DIALOGUES, SYSTEM, small_settings
from trimtab.errors import StorageFull
from trimtab.text.chat import ChatFormat
from trimtab.train.run import StepProgress
from trimtab.train.start import train


def main() -> None:
    import torch

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("base", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--at", type=int, default=0)
    parser.add_argument("--room", type=int, default=resource.RLIM_INFINITY)
    given = parser.parse_args()

    def die(progress: StepProgress) -> None:
        if progress.step == given.at:
            os.kill(os.getpid(), signal.SIGKILL)

    # Past this limit a write fails with EFBIG instead of killing the process.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (given.room, resource.RLIM_INFINITY))
    chat = ChatFormat.from_folder(given.base, system=SYSTEM)
    try:
        train(given.base, chat, DIALOGUES, small_settings(), given.folder, on_step=die)
    except StorageFull as error:
        print(error.message)


if __name__ == "__main__":
    main()
