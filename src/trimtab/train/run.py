"""The folder of a run: its identity, its checkpoints, and its result, written last.

    settings.json    what was asked, and the hash that says whether a rerun is the same run
    preflight.json   what was trained on
    checkpoints/     the last two whole ones, until the run is done
    used.json        the seconds of training so far, of all attempts and however they ended
    adapter/         the result in PEFT's layout; of full fine-tuning `model/`, a base of its own
    loss.json, loss.svg, probes.json
    launch.json      of several ranks: how they shared the run, and what shows it
    live.html        the run as it goes, rewritten while it trains; samples.json: its answers
    base.json        of a reward model: the hash of the base that it stands on
    events/          for TensorBoard, where it is asked for
    record.json      of a loop: the project, the plan, the seed, the versions of the libraries and
                     the hash of the dataset that it was made from
    run.json         the result; where it stands, the run is done

Knows the layout and nothing of training.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trimtab.canonical import canonical_json, short
from trimtab.errors import UserError
from trimtab.train.watch.limits import Ended

USED = "used.json"


@dataclass(frozen=True, slots=True)
class StepProgress:
    """One finished optimizer step. `seconds` counts all training of the run so far, `usd` what it
    costs, `left_usd` what is left of its budget, None where it has none; `memory` is the most that
    was held, in bytes; `mfu` the share of the machine's rate that was reached, None where it cannot
    be counted; `metrics` all that the objective reports beside it.
    """

    step: int
    steps: int
    loss: float
    tokens_s: float
    seconds: float
    gradient_norm: float
    memory: int
    usd: float
    left_usd: float | None
    mfu: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)


OnStep = Callable[[StepProgress], None]


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
    def events(self) -> Path:
        return self.path / "events"

    @property
    def record(self) -> Path:
        return self.path / "record.json"

    @property
    def live(self) -> Path:
        return self.path / "live.html"

    @property
    def samples(self) -> Path:
        return self.path / "samples.json"

    @property
    def probes(self) -> Path:
        return self.path / "probes.json"

    @property
    def launch(self) -> Path:
        return self.path / "launch.json"

    @property
    def base(self) -> Path:
        return self.path / "base.json"

    @property
    def result(self) -> Path:
        return self.path / "run.json"

    @property
    def used_s(self) -> float:
        """Seconds of training so far, those that a kill or a fault has made vain among them. A file
        that a loss of power emptied or zeroed says nothing, and the checkpoints know the rest.
        """
        try:
            return float(json.loads((self.path / USED).read_bytes())["seconds"])
        except (FileNotFoundError, ValueError):
            return 0.0

    def use(self, seconds: float) -> None:
        """Note how many they are by now."""
        replace_file(self.path / USED, canonical_json({"seconds": seconds}))

    def claim(self, identity: str, asked: dict[str, Any]) -> None:
        """Make the folder this run's own, or go on with it.

        Raises UserError where another run (other settings, records, base or libraries) lives there,
        and says what differs; what that run left stands.
        """
        file = self.path / "settings.json"
        if file.is_file():
            found = json.loads(file.read_bytes())
            if found["identity"] != identity:
                differs = "; ".join(_differences(found, asked)) or "by an older release"
                raise UserError(
                    f"{self.path}: holds run {short(found['identity'])}, not {short(identity)}: "
                    f"{differs}",
                    hint="give this run a folder of its own, or what that one had, or delete it",
                )
            return
        write_json(file, {"identity": identity, **asked})

    def asked(self) -> dict[str, Any]:
        """What the run that claimed this folder was asked to do."""
        found: dict[str, Any] = json.loads((self.path / "settings.json").read_bytes())
        return found


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run that is done. `tokens` counts its steps, `seconds` all that was tried for them.

    `trainable` and `total` count parameters; `modules` those the adapter is attached to; `stopped`
    says what ended the run before its last planned step. `best_step` is the step that the result
    is of: the last one, or with `patience` the best on the records held out, where the loss is
    `held_out`.
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
    stopped: Ended
    best_step: int = 0
    held_out: float | None = None
    usd: float = 0.0

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


@dataclass(frozen=True, slots=True)
class Paused:
    """A run that is to go on another time from a checkpoint at `step`; `seconds` lie behind it."""

    step: int
    seconds: float
    held_out: float | None


def _differences(found: Any, asked: Any, name: str = "") -> Iterator[str]:
    """What a run was asked before and what it is asked now, field by field."""
    if isinstance(found, dict) and isinstance(asked, dict):
        for key in asked:
            yield from _differences(found.get(key), asked[key], f"{name}.{key}" if name else key)
    elif found != asked:
        many = any(isinstance(value, list) or len(str(value)) > 24 for value in (found, asked))
        what = name.removeprefix("settings.").removeprefix("libraries.")
        yield f"other {what}" if many else f"{what} was {found} and is {asked}"


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all, and durably."""
    write_bytes(path, canonical_json(value))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: under a temporary name, synced, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _drafted(path) as draft, draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, for those who look; a power loss may take it."""
    with _drafted(path) as draft:
        draft.write_bytes(data)


@contextmanager
def _drafted(path: Path) -> Iterator[Path]:
    """A name that becomes `path` at the end; where that does not come, nothing has it."""
    draft = path.with_name(path.name + ".tmp")
    try:
        yield draft
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power loss."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
