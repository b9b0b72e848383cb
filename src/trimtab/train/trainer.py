"""What every trainer of a run shares: rows in their final order, sealed checkpoints, one config.

Imports torch and trl; import this module only where a run starts.
"""

import dataclasses
import importlib
import textwrap
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, PrinterCallback, Trainer, TrainerState
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from trimtab import bottleneck
from trimtab.errors import ProjectError
from trimtab.train import checkpoint
from trimtab.train.aside import aside
from trimtab.train.model import widen
from trimtab.train.prepare import Prepared
from trimtab.train.rows import Row
from trimtab.train.settings import config_class
from trimtab.train.stream.walk import walkable

if TYPE_CHECKING:
    from trimtab.train.watch.watch import Watch

HELD_OUT = "held_out_loss"
# Characters of a library's message that an error repeats.
LONGEST = 200
# How often a run is saved, unless train.extra.save_steps says otherwise; a save syncs to disk.
SAVES = 8
# With one of these the loss of SFT is TRL's own, over a whole batch.
UNPARTED = frozenset({"loss_type", "label_smoothing_factor", "use_liger_kernel"})


class SealedTrainer(Trainer):
    """Mixed in before a trainer of TRL: rows are taken as they are, and checkpoints sealed.

    `watch` keeps the time. What a checkpoint is taken of is measured on the records held out, and
    where that has not become better for `patience` checkpoints, the run ends. Where `bottlenecks`
    are trained, they are saved without the base.
    """

    prepared: Prepared
    validation: Dataset | None = None
    bottlenecks: bottleneck.Attached | None = None
    told_of_saves: Sequence[Callable[[checkpoint.Checkpoint], None]] = ()
    # Answers of its own that this process has learnt from.
    sampled = 0
    # Whether the rows at hand are part of a batch: one of several ranks may have none of it.
    _counts = True

    def __init__(self, *, watch: "Watch", **given: Any) -> None:
        super().__init__(callbacks=[watch], **given)
        self._watch = watch
        self.remove_callback(PrinterCallback)

    @property
    def bare_model(self) -> Any:
        """The model without what a launcher wrapped it in."""
        return self.accelerator.unwrap_model(self.model)

    def narrowing(self) -> AbstractContextManager[None]:
        """Around what is computed beside the model's own forward pass, which accelerate narrows by
        itself on a card. On a CPU the stream is of float32 alone.
        """
        on_card = self.accelerator.device.type == "cuda"
        return self.accelerator.autocast() if on_card else nullcontext()

    def finish(self) -> None:
        """Take off whatever training hung on the model and the result has no part of."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        """Rows are tokens already, by the room that serves them too."""
        return dataset

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        if self.bottlenecks is None:
            super()._save(output_dir, state_dict)
        else:
            bottleneck.save(self.bottlenecks, Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.bottlenecks is None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self.bottlenecks.load_state_dict(
                load_file(Path(resume_from_checkpoint) / bottleneck.WEIGHTS)
            )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self._watch.between_steps():
            if self.validation is not None:
                self._look_at_what_is_held_out()
            self._write_checkpoint(model, trial)

    def _write_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        path = self._checkpoint(self.state.global_step)
        # Pickled and never read back: the run's settings are kept as JSON.
        (path / "training_args.bin").unlink(missing_ok=True)
        made = checkpoint.Checkpoint(
            path=path,
            step=self.state.global_step,
            seconds=self._watch.seconds,
            identity=self.prepared.identity,
            ended=self._watch.ended,
        )
        checkpoint.seal(made, keep=self.best_step)
        for told in self.told_of_saves:
            told(made)

    def _checkpoint(self, step: int) -> Path:
        return Path(str(self.args.output_dir)) / f"checkpoint-{step}"

    def _look_at_what_is_held_out(self) -> None:
        """Into the log before it is saved, so that a run that goes on knows what it saw."""
        step = self.state.global_step
        self.state.log_history.append({HELD_OUT: self.held_out_loss(), "step": step})
        patience = self.prepared.settings.patience
        seen = self.held_out
        since_best = len(seen) - 1 - min(range(len(seen)), key=lambda at: seen[at][1])
        if patience is not None and since_best >= patience and step < self.state.max_steps:
            self._watch.ended = "early"
            self.control.should_training_stop = True

    @property
    def held_out(self) -> list[tuple[int, float]]:
        """The steps at which the records held out were looked at, with their mean loss."""
        entries = [entry for entry in self.state.log_history if HELD_OUT in entry]
        return [(int(entry["step"]), entry[HELD_OUT]) for entry in entries]

    @property
    def best_step(self) -> int:
        """The step that the run's result is of; 0 before there is one to choose."""
        if self.prepared.settings.patience is None or not self.held_out:
            return 0
        return min(self.held_out, key=lambda seen: (seen[1], seen[0]))[0]

    def held_out_loss(self) -> float:
        """The objective's loss on the records held out: of SFT a token's, of others a row's."""
        total, weight = self._held_out_sums()
        return total / weight

    def _held_out_sums(self) -> tuple[float, float]:
        """The losses of what is held out and this process computes, each by its weight, and the
        weights together.
        """
        assert self.validation is not None
        model: Any = self.model
        total = weight = 0.0
        start = 0
        with aside(model), self.compute_loss_context_manager():
            held = self.prepared.validation
            for whole, batch in zip(held.layout, held.shared, strict=True):
                rows = [self.validation[start + place] for place in range(len(batch))]
                start += len(batch)
                # Where it has no row of the batch, a rank computes one that counts for nothing, for
                # the others may ask for what it has.
                self._counts = bool(held.share.of(whole))
                inputs = self._prepare_inputs(self.data_collator(rows))
                share = float(sum(self.weight(record) for row in batch for record in row))
                loss: Any = self.compute_loss(model, inputs)
                if self._counts:
                    total += share * loss.item()
                    weight += share
        return total, weight

    def counted(self, own: Tensor) -> Tensor | float:
        """What a sum over tokens of a batch's rows is divided by for their mean; `own` are those
        that this process computes.
        """
        return own

    def over_ranks(self, own: Tensor) -> Tensor:
        """A value of each row of a batch, or of each token, where `own` are of this process."""
        return own

    def weight(self, row: Row) -> float:
        """What a row counts in a mean loss."""
        return 1.0

    def stand_at(self, step: int) -> None:
        """Take weights and log of a checkpoint without training on from it."""
        path = self._checkpoint(step)
        self._load_from_checkpoint(str(path))
        self.state = TrainerState.load_from_json(str(path / "trainer_state.json"))

    def go_back_to(self, step: int) -> None:
        """Take the weights of a checkpoint, and keep the log of the whole run."""
        self._load_from_checkpoint(str(self._checkpoint(step)))


def build(prepared: Prepared, checkpoints: Path, watch: "Watch") -> SealedTrainer:
    """The trainer of the run's objective, over its rows, saving under `checkpoints`."""
    module = importlib.import_module(f"trimtab.train.objectives.{prepared.objective.name}")
    trainer: SealedTrainer = module.build(prepared, checkpoints, watch)
    trainer.bottlenecks = prepared.attached.bottlenecks
    if prepared.attached.method.quantised:
        widen(prepared.attached.model)
    trainer.prepared = prepared
    if prepared.held:
        trainer.validation = module.rows(prepared.validation)
    return trainer


def tokenizer_of(prepared: Prepared) -> PreTrainedTokenizerBase:
    """The base's tokenizer, padded with its end of text where it declares no padding."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        prepared.base, local_files_only=True
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def portions(prepared: Prepared) -> tuple[int, int]:
    """Rows of a batch, and batches of a step.

    Where a step is taken in parts that fit a card, it is one batch: a card is not filled by less.
    Its loss is a mean over all its tokens, so the step is the same.
    """
    settings = prepared.settings
    alone = prepared.machine.name == "cuda" and prepared.share.ranks == 1
    parted = prepared.objective.name == "sft" and not UNPARTED & settings.extra.keys()
    if alone and parted and walkable(prepared.attached.model):
        return settings.batch_size * settings.accumulation, 1
    return settings.batch_size, settings.accumulation


def arguments(prepared: Prepared, checkpoints: Path, **owned: Any) -> Any:
    """TRL's configuration of the objective: our defaults, then `train.extra`, then `owned`.

    Raises ProjectError where a value of `train.extra` is none for it.
    """
    settings = prepared.settings
    batch, accumulation = portions(prepared)
    free: dict[str, Any] = {
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "gradient_checkpointing": False,
        "save_steps": max(1, -(-prepared.steps // SAVES // prepared.settings.iterations))
        * prepared.settings.iterations,
        "bf16": prepared.machine.dtype == "bfloat16",
        "use_cpu": prepared.machine.name == "cpu",
        "dataloader_pin_memory": False,
    }
    if prepared.attached.method.quantised and prepared.machine.name == "cuda":
        # Moments go to host memory for as long as a long batch needs the room.
        free["optim"] = "paged_adamw_32bit"
    if prepared.machine.platform:
        # The fused one, which is the default, knows nothing of XLA.
        free["optim"] = "adamw_torch"
    fixed: dict[str, Any] = {
        "output_dir": str(checkpoints),
        "learning_rate": settings.rate,
        "num_train_epochs": 1,
        "per_device_train_batch_size": batch // prepared.share.ranks,
        "gradient_accumulation_steps": accumulation,
        "max_length": None,
        "seed": settings.seed,
        # TRL's own default differs between objectives, and would undo train.dropout in some.
        "disable_dropout": settings.dropout == 0,
        "train_sampling_strategy": "sequential",
        "save_strategy": "steps",
        "report_to": "none",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
    }
    if prepared.objective.rollouts:
        free |= {"num_generations": settings.generations, "max_completion_length": settings.answer}
    config = config_class(prepared.objective)
    known = {field.name for field in dataclasses.fields(config)}
    fixed = {name: value for name, value in fixed.items() if name in known}
    try:
        return config(**(free | dict(settings.extra) | fixed | owned))
    except (TypeError, ValueError) as error:
        if not settings.extra:
            raise
        why = textwrap.shorten(str(error), LONGEST, placeholder=" ...")
        raise ProjectError(
            f"train.extra: {why}", hint=f"see the fields of {prepared.objective.config}"
        ) from error
