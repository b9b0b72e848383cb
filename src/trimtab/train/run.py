"""The folder of a run: its identity, its checkpoints, and its result, written last.

    settings.json    what was asked, and the hash that says whether a rerun is the same run
    preflight.json   what was trained on
    checkpoints/     the last two whole ones, until the run is done
    adapter/         the result in PEFT's layout; of full fine-tuning `model/`, a base of its own
    loss.json, loss.svg, probes.json
    base.json        of a reward model: the hash of the base that it stands on
    run.json         the result; where it stands, the run is done

Knows the layout and nothing of training.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from trimtab.canonical import canonical_json, short
from trimtab.errors import UserError


@dataclass(frozen=True, slots=True)
class StepProgress:
    """One finished optimizer step. `seconds` counts all training of the run so far."""

    step: int
    steps: int
    loss: float
    tokens_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths inside a run's folder."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def preflight(self) -> Path:
        return self.path / "preflight.json"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def curve(self) -> Path:
        return self.path / "loss.json"

    @property
    def picture(self) -> Path:
        return self.path / "loss.svg"

    @property
    def probes(self) -> Path:
        return self.path / "probes.json"

    @property
    def base(self) -> Path:
        return self.path / "base.json"

    @property
    def result(self) -> Path:
        return self.path / "run.json"

    def claim(self, identity: str, asked: dict[str, Any]) -> None:
        """Make the folder this run's own, or go on with it.

        Raises UserError where another run (other settings, records or base) lives there.
        """
        file = self.path / "settings.json"
        if file.is_file():
            found = json.loads(file.read_bytes())["identity"]
            if found != identity:
                raise UserError(
                    f"{self.path}: holds run {short(found)}, not {short(identity)}",
                    hint="give this run a folder of its own, or delete that one",
                )
            return
        write_json(file, {"identity": identity, **asked})

    def asked(self) -> dict[str, Any]:
        """What the run that claimed this folder was asked to do."""
        found: dict[str, Any] = json.loads((self.path / "settings.json").read_bytes())
        return found


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run that is done. `seconds` and `tokens` count every attempt's finished steps.

    `trainable` and `total` count parameters; `modules` those the adapter is attached to; `stopped`
    says whether the deadline ended the run before its last planned step.
    """

    identity: str
    folder: Path
    steps: int
    planned_steps: int
    loss: float
    trainable: int
    total: int
    modules: int
    base_fingerprint: str
    seconds: float
    tokens: int
    dtype: str
    device: str
    stopped: Literal["", "deadline"]

    @property
    def files(self) -> RunFolder:
        return RunFolder(self.folder)

    @property
    def trainable_share(self) -> float:
        return self.trainable / self.total

    def save(self) -> None:
        write_json(self.files.result, asdict(self) | {"folder": None})

    @classmethod
    def load(cls, folder: Path) -> "RunResult | None":
        """The result in a folder, or None where the run is not done."""
        file = RunFolder(folder).result
        if not file.is_file():
            return None
        return cls(**(json.loads(file.read_bytes()) | {"folder": folder}))


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all, and durably."""
    write_bytes(path, canonical_json(value))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: under a temporary name, synced, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power loss."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
