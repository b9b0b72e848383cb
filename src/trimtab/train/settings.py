"""What a run is asked to do. Knows the names of TRL's own options, not what they mean."""

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trimtab.errors import ProjectError
from trimtab.train.launchers import LOCAL, Launch
from trimtab.train.methods import method_of
from trimtab.train.objectives import Objective, objective_of
from trimtab.train.watch.limits import Limits

GENERATIONS = 4
# Tokens that an answer of the model's own may have, unless train.extra says otherwise.
ANSWER = 64

# Fields of TRL's configurations that a field of the project, or this room's own data path, already
# decides.
OWNED = {
    "learning_rate": "set train.learning_rate",
    "num_train_epochs": "set train.epochs",
    "max_steps": "set train.epochs",
    "per_device_train_batch_size": "set train.batch_size",
    "gradient_accumulation_steps": "set train.accumulation",
    "max_length": "set train.max_length",
    "disable_dropout": "set train.dropout",
    "seed": "set train.seed",
    "data_seed": "set train.seed",
    "packing": "set train.packing",
    "packing_strategy": "set train.packing",
    "padding_free": "padding is never computed",
    "train_sampling_strategy": "the order is fixed by train.seed, so that a run can go on",
    "dataset_kwargs": "records are tokenised by their chat template before training",
    "completion_only_loss": "the loss is always on answers alone; set train.turns",
    "assistant_only_loss": "set train.turns",
    "output_dir": "the run's folder is chosen for it",
    "save_strategy": "checkpoints are always kept; set train.extra.save_steps",
    "save_total_limit": "two checkpoints are kept",
    "save_only_model": "a run could not go on from such a checkpoint",
    "resume_from_checkpoint": "a run goes on by itself",
    "report_to": "the curve is kept in the run's folder",
    "logging_steps": "every step is kept",
    "logging_nan_inf_filter": "a loss that is not finite stops the run",
    "disable_tqdm": "progress is shown by the command line",
    "push_to_hub": "versions go to the registry",
    "shuffle_dataset": "the order is fixed by train.seed, so that a run can go on",
    "steps_per_generation": "answers are made anew for every step; set train.extra.num_iterations",
    "generation_batch_size": "set train.batch_size and train.accumulation",
}


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """The `train` section of a project, with the defaults resolved.

    `rank` is also the width of a bottleneck and the number of virtual tokens. `targets` is
    "all-linear", a list of module names, or a regular expression over whole module names (PEFT's
    own rule). `epochs` may be a fraction. With `packing` a row of a batch is filled with whole
    records up to `max_length` tokens, else it is one record. `turns` says which answers of a
    dialogue are learnt, "last" or "every". `learning_rate` None leaves it to objective and method.
    `deadline_s` counts seconds of training over all attempts, and so does `budget_usd`, at
    `usd_hour` dollars an hour of all machines. `validation` is the share of records held out to
    watch the loss on, which ends the run where it has not fallen for `patience` checkpoints.
    `extra` holds further fields of TRL's configuration of the objective. `launch` says in how many
    processes.
    """

    objective: str = "sft"
    method: str = "lora"
    rank: int = 16
    alpha: float = 32
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"
    epochs: float = 1
    batch_size: int = 8
    accumulation: int = 1
    packing: bool = False
    turns: str = "last"
    learning_rate: float | None = None
    max_length: int = 512
    seed: int = 17
    deadline_s: float | None = None
    budget_usd: float | None = None
    usd_hour: float = 0.0
    validation: float = 0.0
    patience: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    launch: Launch = LOCAL

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for the run's record and its identity."""
        targets = self.targets if isinstance(self.targets, str) else list(self.targets)
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return fields | {
            "targets": targets,
            "extra": dict(self.extra),
            "launch": self.launch.to_json(),
        }

    @property
    def limits(self) -> Limits:
        """Where the run ends before its last step."""
        return Limits(self.deadline_s, self.budget_usd, self.usd_hour)

    @property
    def rate(self) -> float:
        """The learning rate at its height."""
        if self.learning_rate is not None:
            return self.learning_rate
        return objective_of(self.objective).rate * method_of(self.method).pace

    @property
    def generations(self) -> int:
        """Answers to each prompt, where the objective learns from answers of the model's own."""
        asked: int = self.extra.get("num_generations", min(GENERATIONS, self.batch_size))
        return asked

    @property
    def answer(self) -> int:
        """Tokens that an answer of the model's own may have."""
        asked: int = self.extra.get("max_completion_length", ANSWER)
        return asked

    @property
    def iterations(self) -> int:
        """How often a batch of answers is learnt from before new ones are made."""
        asked: int = self.extra.get("num_iterations", 1)
        return asked

    @property
    def groups(self) -> int:
        """What ranks share out of a batch: rows, or prompts where answers to one are compared."""
        each = self.generations if objective_of(self.objective).rollouts else 1
        # What is no number of answers is refused elsewhere.
        return self.batch_size // each if type(each) is int and each > 0 else self.batch_size

    def examples(self, records: int) -> int:
        """How many examples the run sees, over all its epochs."""
        return max(1, round(self.epochs * records))


def config_class(objective: Objective) -> type[Any]:
    """TRL's configuration of an objective. Imports trl."""
    module, _, name = objective.config.rpartition(".")
    found: type[Any] = getattr(importlib.import_module(module), name)
    return found


def check_extra(objective: Objective, extra: Mapping[str, Any]) -> None:
    """Refuse names that TRL's configuration does not know, and those decided elsewhere.

    Raises ProjectError that names the nearest field. Imports trl.
    """
    if not extra:
        return
    known = {item.name for item in dataclasses.fields(config_class(objective)) if item.init}
    where = objective.config
    for name in extra:
        if name in OWNED:
            raise ProjectError(f"train.extra.{name} cannot be set", hint=OWNED[name])
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            raise ProjectError(
                f"train.extra.{name}: no such field of {where}",
                hint=f"did you mean '{near[0]}'?" if near else f"see the fields of {where}",
            )
