"""TensorBoard's event files, by torch's own writer. Imports torch and tensorboard where it writes.

A run that goes on behind a checkpoint writes a new file, which takes back the steps that the killed
attempt wrote behind it.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Events:
    """The event files of one run; a disk without room costs them and not the run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of a step, by name."""
        with suppress(OSError):
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self._folder), purge_step=step, flush_secs=5)
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        with suppress(OSError):
            if self._writer is not None:
                self._writer.close()
