"""Train in a process of its own and print its peak memory, its time and what it worked on.

python -m tests.plan.measured BASE FOLDER
"""

import json
import sys
from pathlib import Path

from trimtab.inference import Message
from trimtab.text.chat import ChatFormat
from trimtab.train.lesson import lessons_of
from trimtab.train.preflight import preflight
from trimtab.train.settings import TrainSettings
from trimtab.train.speed import device, gemm_rate
from trimtab.train.start import train


def main() -> None:
    import torch

    torch.set_num_threads(1)
    base, folder = Path(sys.argv[1]), Path(sys.argv[2])
    chat = ChatFormat.from_folder(base, system="You are the support desk. " * 2)
    records = lessons_of(
        [
            (
                Message("user", f"Ticket {i}: the lock is late. " * 3),
                Message("assistant", "Sorry. " * 9),
            )
            for i in range(16)
        ]
    )
    settings = TrainSettings(rank=16, batch_size=8, max_length=256)
    checked = preflight(chat, records, settings.max_length)
    machine = device()
    before = gemm_rate(machine)
    result = train(base, chat, records, settings, folder)
    # Others use the machine too: the rate of the same minute is what the time is held against.
    rate = (before + gemm_rate(machine)) / 2
    work = {
        "records": len(checked.examples),
        "tokens": checked.tokens,
        "supervised": checked.supervised,
        "longest": checked.longest,
        "shared_prefix": checked.shared_prefix,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "accumulation": settings.accumulation,
        "rank": settings.rank,
        "targets": settings.targets,
    }
    print(
        json.dumps(
            {
                "work": work,
                "peak": peak_bytes(),
                "seconds": result.seconds,
                "rate": rate,
                "dtype": result.dtype,
            }
        )
    )


def peak_bytes() -> int:
    """This program's own; what getrusage tells began with the process that started this one."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main()
