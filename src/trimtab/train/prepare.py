"""What a run needs before its first step: examples, their order, the base with its adapter."""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.canonical import content_hash
from trimtab.errors import DataError
from trimtab.train.heldout import hold_out
from trimtab.train.layout import Layout, cut, layout_of, steps_of
from trimtab.train.lesson import Lesson
from trimtab.train.methods import Method
from trimtab.train.objectives import Objective, objective_of
from trimtab.train.online.rewards import Reward, Scorer, over
from trimtab.train.preflight import Preflight
from trimtab.train.rows import Row, idle
from trimtab.train.settings import TrainSettings
from trimtab.train.share import ALL, Share
from trimtab.train.speed import Device, device

if TYPE_CHECKING:
    from trimtab.train.model import Attached

# What may change a step with a release.
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")
QUANTISER = "bitsandbytes"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run before its first step.

    `layout` holds places in `checked.examples`: batches of rows, and a row is one record, or packed
    several. `held` are the rows that are held out of it, `share` says which rows of a batch this
    process computes, and `scorers` what the answers that it samples are worth.
    """

    base: Path
    settings: TrainSettings
    machine: Device
    checked: Preflight
    attached: "Attached"
    base_fingerprint: str
    layout: Layout
    lessons: Sequence[Lesson] = ()
    scorers: Sequence[Scorer] = ()
    held: tuple[Row, ...] = ()
    share: Share = ALL

    @property
    def validation(self) -> "Prepared":
        """The same, over the rows held out: batches of them in their own order."""
        rows = [[place] for place in range(len(self.held))]
        checked = replace(self.checked, examples=self.held)
        return replace(self, checked=checked, layout=cut(rows, self.settings.batch_size))

    @property
    def objective(self) -> Objective:
        return objective_of(self.settings.objective)

    @property
    def order(self) -> list[list[int]]:
        """The places of each batch, whoever computes them."""
        return [[place for row in batch for place in row] for batch in self.layout]

    @property
    def shared(self) -> list[list[list[Row]]]:
        """What this process computes: batches of rows of records.

        Where a batch leaves a rank without a row, it computes one that counts for nothing: ranks
        wait for each other in every step.
        """
        examples = self.checked.examples
        return [
            [[examples[place] for place in row] for row in self.share.of(batch)]
            or [[idle(examples[batch[0][0]])]]
            for batch in self.layout
        ]

    @property
    def packed(self) -> list[list[Row]]:
        """The same row by row, in the order in which they are trained on."""
        return [row for batch in self.shared for row in batch]

    @property
    def laid_out(self) -> list[Row]:
        """The same record by record."""
        return [record for row in self.packed for record in row]

    @property
    def places(self) -> list[int]:
        """Where the answers that this process makes for a step stand among all of the step."""
        each = self.settings.generations
        width = self.settings.batch_size // each
        prompts = [
            at
            for part in range(self.settings.accumulation)
            for at in self.share.of(range(part * width, (part + 1) * width))
        ]
        return [at * each + number for at in prompts for number in range(each)]

    @property
    def steps(self) -> int:
        return steps_of(self.layout, self.settings)

    @property
    def step_batches(self) -> list[list[list[Row]]]:
        """The batches of each optimizer step."""
        size, batches = self.settings.accumulation, self.batches
        cut = [batches[start : start + size] for start in range(0, len(batches), size)]
        return [step for step in cut for _ in range(self.settings.iterations)]

    @property
    def step_examples(self) -> list[list[Row]]:
        """The examples of each optimizer step."""
        return [[row for batch in step for row in batch] for step in self.step_batches]

    @property
    def title(self) -> str:
        """The run in a few words."""
        return f"{self.base.name}, {self.objective.name} by {self.settings.method}"

    @property
    def batches(self) -> list[list[Row]]:
        """The rows of each batch."""
        return [[self.checked.examples[place] for place in batch] for batch in self.order]

    @property
    def identity(self) -> str:
        return content_hash(self.asked())

    def asked(self) -> dict[str, Any]:
        """What makes this run this run: its hash is the run's identity."""
        return {
            "settings": self.settings.to_json(),
            "examples": self.checked.hash,
            "held_out": content_hash([row.identity() for row in self.held]) if self.held else "",
            "base_fingerprint": self.base_fingerprint,
            "libraries": libraries_of(self.attached.method),
            "machine": [self.machine.label, self.machine.dtype],
            "rewards": [scorer.identity for scorer in self.scorers],
        }


def libraries_of(method: Method) -> dict[str, str]:
    """The versions of what may change a step of a method."""
    names = (*LIBRARIES, QUANTISER) if method.quantised else LIBRARIES
    return {name: importlib.metadata.version(name) for name in names}


def prepare(
    base: Path,
    settings: TrainSettings,
    checked: Preflight,
    lessons: Sequence[Lesson] = (),
    rewards: Sequence[Reward] = (),
    share: Share = ALL,
) -> Prepared:
    """Load the base, attach the adapter, lay out the order.

    Raises DataError where there are too few prompts for one batch of answers, or too few
    records to compare.
    """
    from trimtab.train.model import attach

    objective = objective_of(settings.objective)
    checked, held = hold_out(checked, settings.validation, settings.seed)
    if objective.name == "kto" and len({row.record for row in checked.examples}) < 2:
        raise DataError("kto compares records, and there is one alone", hint="add records")
    layout = layout_of(settings, [example.longest for example in checked.examples])
    machine = device()
    attached = attach(base, settings, machine)
    fingerprint = attached.base_fingerprint
    return Prepared(
        base,
        settings,
        machine,
        checked,
        attached,
        fingerprint,
        layout,
        lessons,
        [over(reward, lessons) for reward in rewards],
        held,
        share,
    )
