"""Runs that are killed, told to end, meet a full device, or hang: each in a fork of one process
that has imported what training needs.

python -m tests.train.killed < a list of scenarios {way, base, folder, at, how, room} as JSON
"""

import gc
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.train.conftest import DIALOGUES, SYSTEM, small_settings
from trimtab.text.chat import ChatFormat
from trimtab.train.objectives import objective_of
from trimtab.train.online.rewards import Reward, Rollout
from trimtab.train.run import OnStep, Paused, RunResult, StepProgress
from trimtab.train.settings import TrainSettings
from trimtab.train.start import train_until
from trimtab.train.watch import stall

SHORT = replace(small_settings(), epochs=16 / 24)
ANSWERS = {"num_generations": 2, "max_completion_length": 6, "save_steps": 2, "temperature": 1.5}
# Each in four steps, saved every second one.
WAYS: dict[str, TrainSettings] = {
    "sft": replace(SHORT, dropout=0.1),
    "held out": replace(SHORT, epochs=16 / 19, validation=0.2, patience=9),
    "full": replace(SHORT, method="full", learning_rate=0.001),
    "dpo": replace(SHORT, objective="dpo"),
    "kto": replace(SHORT, objective="kto", epochs=16 / 48),
    "orpo": replace(SHORT, objective="orpo"),
    "grpo": replace(SHORT, objective="grpo", epochs=8 / 24, extra=ANSWERS),
    "ppo": replace(SHORT, objective="ppo", epochs=8 / 24, extra=ANSWERS),
}
# What `make test-pairs` kills too.
TWICE = ANSWERS | {"num_iterations": 2, "beta": 0.05}
MORE: dict[str, TrainSettings] = {
    method: replace(SHORT, method=method)
    for method in ("rslora", "dora", "qlora", "ia3", "prompt", "prefix", "bottleneck")
} | {
    "packed": replace(SHORT, packing=True, epochs=1, max_length=160),
    "accumulated": replace(SHORT, accumulation=2, epochs=1.3, dropout=0.1),
    "reward": replace(SHORT, objective="reward"),
    "rloo": replace(SHORT, objective="rloo", epochs=8 / 24, extra=ANSWERS),
    "grpo twice": replace(SHORT, objective="grpo", epochs=4 / 24, extra=TWICE),
    "ppo twice": replace(SHORT, objective="ppo", epochs=4 / 24, extra=TWICE),
    "dpo full": replace(SHORT, objective="dpo", method="full", learning_rate=0.001),
}
# Where there is a card also over a base in 4 bits.
CARD_WAYS = WAYS | {"qlora": MORE["qlora"]}


def trained(
    way: str, base: Path, folder: Path, on_step: OnStep | None = None
) -> RunResult | Paused:
    """The run of a way, to its end."""
    chat = ChatFormat.from_folder(base, system=SYSTEM)
    settings = (WAYS | MORE)[way]
    sampling = objective_of(settings.objective).rollouts
    rewards = [Reward("length", "length", _lengths)] if sampling else []
    return train_until(base, chat, DIALOGUES, settings, folder, on_step=on_step, rewards=rewards)


def _lengths(rollouts: Sequence[Rollout]) -> list[float]:
    return [float(len(rollout.answer)) for rollout in rollouts]


def main() -> None:
    # No collection walks over what is imported: neither here, nor in a fork, which would copy it.
    gc.disable()
    import torch

    torch.set_num_threads(1)
    import trimtab.train.model
    import trimtab.train.trainer  # noqa: F401 - so that no fork has to

    gc.freeze()
    gc.enable()
    json.dump([_forked(each) for each in json.load(sys.stdin)], sys.stdout)


def _forked(scenario: dict[str, Any]) -> dict[str, Any]:
    """How a process ended, negative for a signal, and what it said."""
    read, write = os.pipe()
    if not (child := os.fork()):
        os.dup2(write, 1)
        os.dup2(write, 2)
        try:
            meet(**scenario)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        words = said.read()
    return {"code": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "said": words}


def meet(
    way: str, base: str, folder: str, at: int = 0, how: str = "", room: int = resource.RLIM_INFINITY
) -> None:
    # Past this limit a write fails with EFBIG instead of killing the process.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    if how in ("hangs", "loops"):
        stall.LEAST_S, stall.GRACE_S, stall.TIMES = 0.2, 0.2, 2.0

    def on_step(progress: StepProgress) -> None:
        if progress.step == at:
            _end(how)

    trained(way, Path(base), Path(folder), on_step)


def _end(how: str) -> None:
    if how == "hangs":
        # One call that does not come back to Python.
        time.sleep(60)
    while how == "loops":
        time.sleep(0.01)
    os.kill(os.getpid(), {"killed": signal.SIGKILL, "told": signal.SIGTERM}[how])


if __name__ == "__main__":
    main()
