"""The long form of the launchers' tests: every way to share a run out, against one process.

`make test-distributed`. Writes docs/campaigns/distributed.json: of each mode its ranks and who
started them, its losses and those of one process, the largest difference, and what shows that the
run really was shared. A mode keeps the commit that it was last run at; the campaign has passed only
where all of them ran, at one. Where the launcher itself is not in question, the ranks are forks of
this process, which has imported what they need.
"""

import dataclasses
import importlib.util
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import psutil
from benchmarks.machine import head

from tests.campaigns import FOLDER, record
from tests.tiny import build_base
from tests.train import ranks
from tests.train.conftest import DIALOGUES, SYSTEM, notes_of, overheard, small_settings
from trimtab.errors import Preempted, TrimtabError
from trimtab.text.chat import ChatFormat
from trimtab.train.launchers import LAUNCHERS, SHARDINGS, Launch
from trimtab.train.launchers.job import Desk, Job
from trimtab.train.launchers.xla_place import refusals
from trimtab.train.objectives import objective_of
from trimtab.train.online.rewards import over
from trimtab.train.preflight import preflight
from trimtab.train.run import RunResult, StepProgress
from trimtab.train.settings import TrainSettings
from trimtab.train.start import train

# Nats: the order of a sum is another, and float32 adds 24 bits.
TOLERANCE = 1e-4
# How often a run of forks is told to end.
STOPS = 3
LESSONS = DIALOGUES[:23]
# Two answers to each prompt, a few tokens each.
ANSWERS = {"num_generations": 2, "max_completion_length": 6, "beta": 0.05, "save_steps": 2}
OnStep = Callable[[StepProgress], None]


@dataclass(frozen=True, slots=True)
class Mode:
    """A launch, what is trained under it, who starts the ranks, and what happens on the way: a
    worker is killed, or the run is told to end and begun again.
    """

    launch: Launch
    objective: str = "sft"
    method: str = "lora"
    accumulation: int = 1
    by: Literal["forks", "launcher"] = "forks"
    fate: Literal["", "a worker lost", "told to end"] = ""

    @property
    def name(self) -> str:
        steps = f", {self.accumulation} batches a step" if self.accumulation > 1 else ""
        fate = f", {self.fate}" if self.fate else ""
        return f"{self.launch}; {self.objective} by {self.method}{steps}{fate}"

    @property
    def missing(self) -> str:
        """What would have to be installed; empty where it is."""
        if self.launch.kind == "tpu":
            return "; ".join(no.reason for no in refusals(self.objective, self.method))
        parts = (LAUNCHERS[self.launch.kind], SHARDINGS[self.launch.sharding])
        absent = [p.module for p in parts if p.module and not importlib.util.find_spec(p.module)]
        return f"{absent[0]} is not installed" if absent else ""


def torchrun(sharding: str, offload: str = "none", ranks: int = 2) -> Launch:
    return Launch("torchrun", ranks, sharding, offload)


MODES = (
    Mode(torchrun("none"), by="launcher"),
    Mode(torchrun("none"), method="full"),
    Mode(torchrun("none"), objective="dpo"),
    Mode(torchrun("fsdp")),
    Mode(torchrun("fsdp"), method="full"),
    Mode(torchrun("fsdp"), objective="dpo"),
    Mode(torchrun("fsdp"), objective="orpo"),
    Mode(torchrun("fsdp"), by="launcher", fate="told to end"),
    Mode(torchrun("zero2")),
    Mode(torchrun("zero2"), accumulation=2),
    Mode(torchrun("zero2", "cpu"), method="full"),
    Mode(torchrun("zero3")),
    Mode(torchrun("zero3"), method="full"),
    Mode(torchrun("zero3"), accumulation=2),
    Mode(torchrun("zero3"), objective="dpo"),
    Mode(torchrun("zero3", "cpu"), method="full"),
    Mode(torchrun("zero3", "nvme", 1), method="full"),
    Mode(torchrun("none"), objective="kto"),
    Mode(torchrun("fsdp"), objective="kto"),
    Mode(torchrun("zero3"), objective="kto"),
    Mode(torchrun("zero2"), method="full", fate="told to end"),
    Mode(torchrun("zero2", "cpu"), fate="told to end"),
    Mode(torchrun("zero3"), fate="told to end"),
    Mode(torchrun("zero3", "cpu"), method="full", fate="told to end"),
    # Each rank makes its own answers.
    Mode(torchrun("none"), objective="grpo"),
    Mode(torchrun("none"), objective="grpo", method="full"),
    Mode(torchrun("none"), objective="rloo", accumulation=2),
    Mode(torchrun("none"), objective="ppo", accumulation=2),
    Mode(torchrun("none"), objective="ppo", fate="told to end"),
    Mode(torchrun("none"), objective="grpo", by="launcher", fate="told to end"),
    Mode(torchrun("zero2"), objective="grpo"),
    Mode(torchrun("zero2"), objective="ppo", fate="told to end"),
    # Wherever TRIMTAB_XLA_PYTHON has it: PJRT_DEVICE=CPU is XLA's own CPU device.
    Mode(Launch("tpu"), by="launcher"),
    Mode(Launch("tpu"), method="full", by="launcher"),
    Mode(Launch("tpu"), by="launcher", fate="told to end"),
    # Ray's threads last: what is forked has none.
    Mode(Launch("ray", 2), by="launcher"),
    Mode(Launch("ray", 2, "fsdp"), by="launcher"),
    Mode(Launch("ray", 2), by="launcher", fate="a worker lost"),
    Mode(Launch("ray", 2), objective="rloo", by="launcher"),
)


def main(*words: str) -> int:
    """Returns the number of violations; `words` choose the modes whose names hold one of them, and
    the others stay as they were found last.
    """
    rows: dict[str, dict[str, Any]] = {}
    import_all()
    with TemporaryDirectory() as name:
        folder = Path(name)
        tiny = Alone(build_base(folder / "tiny"), folder / "alone")
        # DeepSpeed writes nothing under 1 MiB to NVMe.
        wide = Alone(build_base(folder / "wide", hidden=128), folder / "wide-alone")
        for number, mode in enumerate(MODES):
            if words and not any(word in mode.name for word in words):
                continue
            alone = wide if mode.launch.offload == "nvme" else tiny
            row = rows[mode.name] = one(mode, alone, folder / str(number))
            print(f"{mode.name}: {row['violation'] or row['reason'] or 'the same'}", flush=True)
            # A campaign that is cut short leaves what it found so far.
            keep(found_last() | rows, part=True)
    return keep(found_last() | rows, part=bool(words))


def keep(rows: dict[str, dict[str, Any]], part: bool, folder: Path = FOLDER) -> int:
    """Write the rows by the names of their modes; of one that was not run there may be none.

    Returns the number of violations among them.
    """
    found = [rows[mode.name] for mode in MODES if mode.name in rows]
    ran = [row for row in found if not row["reason"]]
    violations = sum(row["violation"] != "" for row in ran)
    absent = len(MODES) - len(ran)
    counts = {"modes": len(ran), "modes not run": absent}
    whole = not part and not absent
    record("distributed", violations, counts, folder, {"modes": found}, whole)
    return violations


def import_all() -> None:
    """What ranks need, so that no fork has to import it."""
    import torch
    import trl.trainer.dpo_trainer
    import trl.trainer.grpo_trainer
    import trl.trainer.rloo_trainer
    import trl.trainer.sft_trainer  # noqa: F401

    import trimtab.train.launchers.fsdp
    import trimtab.train.launchers.ranked  # noqa: F401

    if importlib.util.find_spec("deepspeed"):
        import deepspeed  # noqa: F401
    torch.set_num_threads(1)


class Alone:
    """Losses and answers of one process, each run once."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.base = base
        self._folder = folder
        self._found: dict[str, tuple[list[float], set[str]]] = {}

    def run(self, asked: TrainSettings) -> tuple[list[float], set[str]]:
        name = json.dumps(asked.to_json())
        if name not in self._found:
            run = self._folder / str(len(self._found))
            self._found[name] = losses(self.base, asked, run, None), answers_of(run)
        return self._found[name]


def found_last() -> dict[str, dict[str, Any]]:
    file = FOLDER / "distributed.json"
    if not file.is_file():
        return {}
    return {row["mode"]: row for row in json.loads(file.read_text())["figures"]["modes"]}


def one(mode: Mode, alone: Alone, folder: Path) -> dict[str, Any]:
    """One mode beside one process."""
    row: dict[str, Any] = {
        "mode": mode.name,
        "commit": head()["commit"],
        "ranks": mode.launch.ranks,
        "started_by": mode.launch.kind if mode.by == "launcher" else "forks",
        "losses": None,
        "single_process_losses": None,
        "largest_difference": None,
        "really_shared": None,
        "proof": None,
        "seconds": None,
        "reason": mode.missing,
        "violation": "",
    }
    if mode.missing:
        return row
    asked = dataclasses.replace(
        small_settings(),
        objective=mode.objective,
        method=mode.method,
        accumulation=mode.accumulation,
        learning_rate=1e-3 if mode.method == "full" else 1e-2,
        epochs=4 if mode.fate and mode.by == "launcher" else 1,
    )
    if objective_of(mode.objective).rollouts:
        asked = dataclasses.replace(asked, extra=ANSWERS, epochs=asked.epochs / 2)
    single, answers = alone.run(asked)
    began = time.monotonic()
    blow = Blow(mode.fate) if mode.fate and mode.by == "launcher" else None
    shared = dataclasses.replace(asked, launch=mode.launch)
    try:
        if mode.by == "forks":
            many = forked(alone.base, shared, folder, STOPS if mode.fate else 0)
        else:
            many = struck(alone.base, shared, folder, blow)
    except TrimtabError as error:
        return row | {"violation": error.message}
    found = json.loads((folder / "launch.json").read_bytes())
    apart = max(abs(a - b) for a, b in zip(single, many, strict=True))
    row |= {
        "losses": many,
        "single_process_losses": single,
        "largest_difference": apart,
        "really_shared": bool(found["proof"]),
        "proof": found["proof"],
        "seconds": round(time.monotonic() - began, 1),
    }
    if apart > TOLERANCE:
        return row | {"violation": f"losses differ by {apart:.2g}"}
    if answers != answers_of(folder):
        return row | {"violation": "the answers are others"}
    if blow is not None and not blow.done:
        return row | {"violation": "nothing happened on the way"}
    return row


def losses(base: Path, asked: TrainSettings, run: Path, on_step: OnStep | None) -> list[float]:
    chat = ChatFormat.from_folder(base, system=SYSTEM)
    rewards = [overheard(notes_of(run))] if objective_of(asked.objective).rollouts else []
    return curve_of(train(base, chat, LESSONS, asked, run, on_step=on_step, rewards=rewards))


def answers_of(run: Path) -> set[str]:
    """What was answered to which records; some twice where a step was done again."""
    notes = notes_of(run)
    return set(notes.read_text(encoding="utf-8").splitlines()) if notes.is_file() else set()


def curve_of(result: RunResult) -> list[float]:
    return [point["loss"] for point in json.loads(result.files.curve.read_bytes())]


def forked(base: Path, asked: TrainSettings, run: Path, stops: int) -> list[float]:
    """The losses of a run in forks of this process, told to end behind its first step, and behind
    every further one, `stops` times, and begun again each time.
    """
    chat = ChatFormat.from_folder(base, system=SYSTEM)
    checked = preflight(chat, LESSONS, asked.max_length, objective_of(asked.objective))
    for left in range(stops, -1, -1):
        desk = Desk(run)
        shutil.rmtree(desk.path, ignore_errors=True)
        rewarded = objective_of(asked.objective).rollouts
        scorers = [over(overheard(notes_of(run)), LESSONS)] if rewarded else []
        Job.of(base, asked, checked, scorers).save(desk.job)
        if left:
            desk.ask_to_end()
        ranks.both(run, resource.RLIM_INFINITY)
        result = RunResult.load(run)
        if result is None and not isinstance(cause := desk.cause(asked.launch.ranks), Preempted):
            raise cause
    assert result is not None
    return curve_of(result)


def struck(base: Path, asked: TrainSettings, run: Path, blow: "Blow | None") -> list[float]:
    """The losses of a run; one that was told to end is begun again."""
    try:
        return losses(base, asked, run, blow)
    except Preempted:
        return losses(base, asked, run, None)


class Blow:
    """What befalls a run behind its fifth step, once."""

    def __init__(self, fate: str) -> None:
        self._fate = fate
        self.done = False

    def __call__(self, progress: StepProgress) -> None:
        if self.done or progress.step < 5:
            return
        if self._fate == "told to end":
            os.kill(os.getpid(), signal.SIGTERM)
            self.done = True
            return
        self.done = kill_a_worker()


def kill_a_worker() -> bool:
    """End one of this process's workers of Ray as a machine that goes away does; whether one was
    there.
    """
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                process.kill()
                return True
    return False


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
