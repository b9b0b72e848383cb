"""Steps of one system on one base, timed after the first ones.

A step ends when its loss has come back from the card, for every system alike; tokens are those of
the records. Memory is the most that torch held on the card from the first step on, weights
included.
"""

import importlib.metadata
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.train.gpu import bases
from trimtab.train.model import adapt, quiet
from trimtab.train.order import packed_rows
from trimtab.train.preflight import Preflight
from trimtab.train.prepare import Prepared
from trimtab.train.settings import TrainSettings
from trimtab.train.speed import Device, device

# Of the schedule nothing is left to compare but its height.
SCHEDULE: dict[str, Any] = {"lr_scheduler_type": "constant", "warmup_steps": 0}
WARM = 2
LIBRARIES = (
    "torch",
    "triton",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "liger-kernel",
    "bitsandbytes",
)


class Clock(TrainerCallback):
    """When each step's loss was there, and what it was."""

    def __init__(self) -> None:
        self.ended: list[float] = []
        self.losses: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        if logs and "loss" in logs:
            torch.cuda.synchronize()
            self.ended.append(time.perf_counter())
            self.losses.append(logs["loss"])


@dataclass(frozen=True)
class Measured:
    """`step_s` of the steps behind the warm ones; `tokens` of a step on average."""

    steps: int
    step_s: float
    tokens: float
    peak_mb: float
    first_loss: float
    last_loss: float
    model: Any
    prepared: Prepared | None = None

    def figures(self) -> dict[str, float]:
        return {
            "tok_s": self.tokens / self.step_s,
            "step_s": self.step_s,
            "tokens": self.tokens,
            "peak_mb": self.peak_mb,
            "first_loss": self.first_loss,
            "last_loss": self.last_loss,
        }


def _measured(clock: Clock, checked: Preflight, model: Any, **more: Any) -> Measured:
    steps = len(clock.ended)
    took = [b - a for a, b in zip(clock.ended, clock.ended[1:], strict=False)][WARM - 1 :]
    return Measured(
        steps=steps,
        # The last step may be a short one: totals of whole ones are compared.
        step_s=sorted(took[:-1] or took)[len(took[:-1] or took) // 2],
        tokens=checked.tokens / steps,
        peak_mb=torch.cuda.max_memory_allocated() / 1e6,
        first_loss=clock.losses[0],
        last_loss=clock.losses[-1],
        model=model,
        **more,
    )


def trimtab(
    base: str,
    checked: Preflight,
    settings: TrainSettings,
    folder: Path,
    **extra: Any,
) -> Measured:
    """The trainer of a run, on a base that lies on the card already; `extra` as in a project."""
    from trimtab.train.trainer import build
    from trimtab.train.watch.watch import Watch

    settings = replace(settings, extra={**settings.extra, **SCHEDULE, **extra})
    with quiet():
        prepared = _prepared(base, checked, settings, folder)
        watch = Watch(prepared.step_examples, folder)
        trainer: Any = build(prepared, folder / "checkpoints", watch)
        clock = Clock()
        trainer.add_callback(clock)
        trainer._save_checkpoint = lambda *_, **__: None
        trainer.train()
    return _measured(clock, checked, prepared.attached.model, prepared=prepared)


def _prepared(base: str, checked: Preflight, settings: TrainSettings, folder: Path) -> Prepared:
    where = bases.folder(folder / "base")
    width = torch.float32 if settings.method == "full" else torch.bfloat16
    torch.manual_seed(settings.seed)
    drawn = bases.drawn(base, width, quantised=settings.method == "qlora")
    attached = adapt(drawn, where, settings)
    machine: Device = device()
    lengths = [row.longest for row in checked.examples]
    rows = (
        packed_rows(
            lengths, examples=len(lengths), max_length=settings.max_length, seed=settings.seed
        )
        if settings.packing
        else [[place] for place in range(len(lengths))]
    )
    size = settings.batch_size
    layout = [rows[start : start + size] for start in range(0, len(rows), size)]
    return Prepared(where, settings, machine, checked, attached, "", layout)


def trl(
    base: str,
    checked: Preflight,
    settings: TrainSettings,
    folder: Path,
    attention: str = "sdpa",
    **tuned: Any,
) -> Measured:
    """TRL with Liger's kernels and the quickstart's settings; `tuned` is what is set otherwise."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    targets = settings.targets if isinstance(settings.targets, str) else [*settings.targets]
    torch.manual_seed(settings.seed)
    model: Any = bases.drawn(base)
    model.set_attn_implementation(attention)
    clock = Clock()
    rows: list[Any] = [*checked.examples]
    data = [
        {
            "input_ids": list(row.tokens),
            "labels": [t if m else -100 for t, m in zip(row.tokens, row.mask, strict=True)],
        }
        for row in rows
    ]
    asked: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "learning_rate": settings.rate,
        **SCHEDULE,
        "max_length": settings.max_length,
        "packing": settings.packing,
        "bf16": True,
        "use_liger_kernel": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": settings.seed,
    }
    with quiet():
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**(asked | tuned)),
            train_dataset=Dataset.from_list(data),
            processing_class=AutoTokenizer.from_pretrained(bases.folder(folder / "base")),
            peft_config=LoraConfig(
                task_type="CAUSAL_LM",
                r=settings.rank,
                lora_alpha=int(settings.alpha),
                lora_dropout=settings.dropout,
                target_modules=targets,
            ),
            callbacks=[clock],
        )
        trainer.train()
    trained = trainer.accelerator.unwrap_model(trainer.model)
    return _measured(clock, checked, trained)


def held_out(model: Any, checked: Preflight) -> float:
    """Mean loss in nats a token over records that were not trained on, by plain transformers."""
    model.eval()
    total, count = 0.0, 0
    for row in checked.examples:
        tokens = torch.tensor([row.prompt + row.completion], device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=tokens, use_cache=False).logits[0, len(row.prompt) - 1 : -1]
            wanted = tokens[0, len(row.prompt) :]
            loss = torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="sum")
        total, count = total + float(loss), count + len(wanted)
    assert math.isfinite(total)
    return total / count


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in LIBRARIES}
