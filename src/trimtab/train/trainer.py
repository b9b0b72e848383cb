"""What every trainer of a run shares: rows in their final order, sealed checkpoints, one config.

Imports torch and trl; import this module only where a run starts.
"""

import dataclasses
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoTokenizer, PrinterCallback, Trainer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from trimtab import bottleneck
from trimtab.train import checkpoint
from trimtab.train.model import widen
from trimtab.train.prepare import Prepared
from trimtab.train.settings import config_class

if TYPE_CHECKING:
    from trimtab.train.watch import Watch

# How often a run is saved, unless train.extra.save_steps says otherwise; a save syncs to disk.
SAVES = 8


class SealedTrainer(Trainer):
    """Mixed in before a trainer of TRL: rows are taken as they are, and checkpoints sealed.

    `watch` keeps the time. Where `bottlenecks` are trained, they are saved without the base.
    """

    bottlenecks: bottleneck.Attached | None = None

    def __init__(self, *, watch: "Watch", **given: Any) -> None:
        super().__init__(callbacks=[watch], **given)
        self._watch = watch
        self.remove_callback(PrinterCallback)

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
        folder = Path(str(self.args.output_dir))
        path = folder / f"checkpoint-{self.state.global_step}"
        super()._save_checkpoint(model, trial)
        # Pickled and never read back: the run's settings are kept as JSON.
        (path / "training_args.bin").unlink(missing_ok=True)
        checkpoint.seal(path, step=self.state.global_step, seconds=self._watch.seconds)


def build(prepared: Prepared, checkpoints: Path, watch: "Watch") -> SealedTrainer:
    """The trainer of the run's objective, over its rows, saving under `checkpoints`."""
    module = importlib.import_module(f"trimtab.train.objectives.{prepared.objective.name}")
    trainer: SealedTrainer = module.build(prepared, checkpoints, watch)
    trainer.bottlenecks = prepared.attached.bottlenecks
    if prepared.attached.method.quantised:
        widen(prepared.attached.model)
    return trainer


def tokenizer_of(prepared: Prepared) -> PreTrainedTokenizerBase:
    """The base's tokenizer, padded with its end of text where it declares no padding."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        prepared.base, local_files_only=True
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def arguments(prepared: Prepared, checkpoints: Path, **owned: Any) -> Any:
    """TRL's configuration of the objective: our defaults, then `train.extra`, then `owned`."""
    settings = prepared.settings
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
    fixed: dict[str, Any] = {
        "output_dir": str(checkpoints),
        "learning_rate": settings.rate,
        "num_train_epochs": 1,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulation,
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
    return config(**(free | dict(settings.extra) | fixed | owned))
