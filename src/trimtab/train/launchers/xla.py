"""A run on XLA's device, in an environment with torch_xla:
`python -m trimtab.train.launchers.xla RUN --parent-fd N`. Imports torch and torch_xla.

transformers' trainer finds the device itself, and ends each step there; what it writes is brought
to the host first, so that a checkpoint has the layout of any other.
"""

import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from trimtab.child import leave_with_parent
from trimtab.errors import TrimtabError
from trimtab.train import checkpoint
from trimtab.train.attempt import attempted, opened, unfinished
from trimtab.train.ending import finish
from trimtab.train.launchers.job import Desk, Job
from trimtab.train.launchers.rank import whole
from trimtab.train.launchers.scores import asking
from trimtab.train.prepare import prepare
from trimtab.train.run import RunFolder, RunResult, write_json
from trimtab.train.speed import Device
from trimtab.train.trainer import SealedTrainer


class XlaTrainer(SealedTrainer):
    """Mixed in before a finished trainer."""

    model: Any

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        self._save(output_dir, state_dict=self.in_host())

    def in_host(self) -> dict[str, Tensor]:
        return {name: value.cpu() for name, value in self.model.state_dict().items()}

    def proof(self) -> dict[str, Any]:
        """What shows that XLA computed the run. Raises TrimtabError where it did not."""
        from torch_xla.debug.metrics import metric_data
        from torch_xla.runtime import device_type

        places = {parameter.device.type for parameter in self.model.parameters()}
        compiled = metric_data("CompileTime")
        if places != {"xla"} or compiled is None:
            raise TrimtabError(f"the model lies on {sorted(places)}: the run was not XLA's")
        return {
            "device": f"xla:{device_type()}",
            "programs": compiled[0],
            "libraries": {name: metadata.version(name) for name in ("torch", "torch_xla")},
        }


def work(run: Path) -> None:
    """Do the run in a folder. Raises what training in one process raises."""
    from trimtab.train.model import quiet

    desk = Desk(run)
    job, files = Job.load(desk.job), RunFolder(run)
    with quiet(), checkpoint.room_needed(files.checkpoints):
        prepared = prepare(job.base, job.settings, job.checked)
        prepared = replace(prepared, scorers=asking(job, desk))
        files.claim(prepared.identity, prepared.asked())
        if RunResult.load(run) is not None:
            return
        opened(prepared, files)
        attempt = attempted(prepared, files, None, desk.tell, _mixed)
        unfinished(prepared, files, attempt)
        trainer = attempt.trainer
        assert isinstance(trainer, XlaTrainer)
        launched = {**job.settings.launch.to_json(), "proof": trainer.proof()}
        write_json(files.launch, launched)
        host = Device("cpu", prepared.machine.dtype)
        finish(whole(prepared, trainer.in_host(), host), files, attempt)


def _mixed(trainer: SealedTrainer) -> None:
    # Every objective builds its own trainer, so the class is mixed in once one is there.
    trainer.__class__ = type(f"Xla{type(trainer).__name__}", (XlaTrainer, type(trainer)), {})


def main(run: Path, parent_fd: int) -> int:
    leave_with_parent(parent_fd)
    desk = Desk(run)
    try:
        work(run)
    except Exception as error:
        desk.fail(0, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[3])))
