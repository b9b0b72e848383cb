"""TRL's SFTTrainer with the loss of `loss` and sealed checkpoints, and how it is set up.

Imports torch and trl; import this module only where a run starts.
"""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoTokenizer, PrinterCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from trimtab.train import checkpoint
from trimtab.train.loss import IGNORED, Model, label_logprobs, shares_prefix
from trimtab.train.prepare import Prepared
from trimtab.train.watch import Watch

# How often a run is saved, unless train.extra.save_steps says otherwise; a save syncs to disk.
SAVES = 8


class SealedTrainer(SFTTrainer):
    """Trains on rows that lie in their final order; `watch` keeps the time."""

    def __init__(self, trained: Model, *, watch: Watch, **given: Any) -> None:
        super().__init__(model=trained, callbacks=[watch], **given)
        self._trained = trained
        self._watch = watch

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if return_outputs or not shares_prefix(self._trained):
            return super().compute_loss(  # type: ignore[no-untyped-call]
                model, inputs, return_outputs, num_items_in_batch
            )
        logprobs = label_logprobs(self._trained, inputs["input_ids"], inputs["labels"])
        return -logprobs.sum() / (num_items_in_batch or len(logprobs))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        folder = Path(str(self.args.output_dir))
        path = folder / f"checkpoint-{self.state.global_step}"
        super()._save_checkpoint(model, trial)  # type: ignore[no-untyped-call]
        # Pickled and never read back: the run's settings are kept as JSON.
        (path / "training_args.bin").unlink()
        checkpoint.seal(path, step=self.state.global_step, seconds=self._watch.seconds)


def build(prepared: Prepared, checkpoints: Path, watch: Watch) -> SealedTrainer:
    """A trainer over the examples in their final order, saving under `checkpoints`."""
    tokenizer = AutoTokenizer.from_pretrained(prepared.base, local_files_only=True)
    trainer = SealedTrainer(
        prepared.attached.model,
        watch=watch,
        args=_config(prepared, checkpoints),
        train_dataset=_rows(prepared),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _rows(prepared: Prepared) -> Dataset:
    """The examples in the order they are trained on, as TRL wants pre-tokenised data."""
    laid_out = [prepared.checked.examples[row] for rows in prepared.order for row in rows]
    labels = [
        [token if taught else IGNORED for token, taught in zip(e.tokens, e.mask, strict=True)]
        for e in laid_out
    ]
    return Dataset.from_dict({"input_ids": [list(e.tokens) for e in laid_out], "labels": labels})


def _config(prepared: Prepared, checkpoints: Path) -> SFTConfig:
    settings = prepared.settings
    bf16 = prepared.machine.dtype == "bfloat16"
    free: dict[str, Any] = {
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "gradient_checkpointing": False,
        "save_steps": max(1, -(-prepared.steps // SAVES)),
        "bf16": bf16,
        "use_cpu": prepared.machine.name == "cpu",
        "dataloader_pin_memory": False,
    }
    return SFTConfig(
        **(free | dict(settings.extra)),
        output_dir=str(checkpoints),
        learning_rate=settings.learning_rate,
        num_train_epochs=1,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        max_length=None,
        seed=settings.seed,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        save_strategy="steps",
        report_to="none",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
    )
