"""One system trains one case in this process and says what it took.

    python -m benchmarks.train.measure SYSTEM CASE

Tokens are those of the records, whatever a system computes; seconds are those of the steps, the
optimizer's included, without loading, saving or asking the model for samples of its answers.
"""

import json
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.serve.material import base_folder
from benchmarks.train.material import Material, material
from benchmarks.train.swift import ms_swift
from benchmarks.train.torchtune import torchtune
from benchmarks.train.trained import SCHEDULE, Run, Trained, adapted, loaded


def main() -> None:
    print(json.dumps(cell(*sys.argv[1:], whole=True)))


def cell(system: str, case: str, *, whole: bool) -> dict[str, float]:
    """The figures of one system on one case; with `whole` also what every round finds alike, the
    loss on held-out records, and what of the time were products.
    """
    found = material(case)
    with tempfile.TemporaryDirectory() as folder:
        done = SYSTEMS[system](found, Path(folder))
        # A second copy of the base would count as memory of the training.
        peak = done.peak_mb or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        tokens = sum(row.size for row in found.rows(found.taught))
        told = {"tokens": tokens, "tok_s": tokens / done.seconds, "peak_mb": peak}
        told["first_loss"] = done.losses[0]
        if whole:
            model = done.load()
            told["final_loss"] = held_out(model, found)
        if whole and system == "trimtab":
            from benchmarks.train.limit import share

            told["share_of_limit"] = share(model, found, done.seconds)
    return told


def product_rate() -> float:
    """Operations a second of a matrix product."""
    from trimtab.train.speed import device, gemm_rate

    return gemm_rate(device())


def trimtab(found: Material, folder: Path) -> Trained:
    """The room `train` as a project calls it, saved behind its last step."""
    from trimtab.train.start import train

    told: list[Any] = []
    settings = replace(found.settings, extra={"save_steps": found.steps, **SCHEDULE})
    result = train(
        base_folder(),
        found.chat,
        found.taught,
        settings,
        folder / "run",
        on_step=told.append,
    )
    losses = [step.loss for step in told]
    return Trained(lambda: adapted(found, result.files.adapter), told[-1].seconds, losses)


def trl(found: Material, folder: Path, **tuned: Any) -> Trained:
    """TRL with the quickstart's settings; `tuned` is what is set otherwise."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    class Clock(TrainerCallback):
        started = ended = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ended = time.monotonic()

    asked, clock = found.settings, Clock()
    targets = asked.targets if isinstance(asked.targets, str) else list(asked.targets)
    adapter = LoraConfig(
        task_type="CAUSAL_LM",
        r=asked.rank,
        lora_alpha=int(asked.alpha),
        lora_dropout=asked.dropout,
        target_modules=targets,
    )
    common: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "per_device_train_batch_size": asked.batch_size,
        "learning_rate": asked.rate,
        **SCHEDULE,
        "max_length": asked.max_length,
        "bf16": False,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": asked.seed,
    }
    torch.manual_seed(asked.seed)
    model = loaded(found)
    tokenizer = AutoTokenizer.from_pretrained(base_folder())
    rows: list[Any] = list(found.rows(found.taught))
    shared = {"model": model, "processing_class": tokenizer, "peft_config": adapter}
    trainer: Any
    if asked.objective == "sft":
        data = [
            {
                "input_ids": list(row.tokens),
                "labels": [t if m else -100 for t, m in zip(row.tokens, row.mask, strict=True)],
            }
            for row in rows
        ]
        config = SFTConfig(**(common | {"packing": True} | tuned))
        trainer = SFTTrainer(
            **shared, args=config, train_dataset=Dataset.from_list(data), callbacks=[clock]
        )
    else:
        sides = ("prompt_ids", "chosen_ids", "rejected_ids")
        data = [dict(zip(sides, map(list, (r.prompt, *r.completions)), strict=True)) for r in rows]

        class Tokenised(DPOTrainer):
            def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
                return dataset

        trainer = Tokenised(
            **shared,
            args=DPOConfig(**(common | tuned)),
            train_dataset=Dataset.from_list(data),
            callbacks=[clock],
        )
    trainer.train()
    losses = [told["loss"] for told in trainer.state.log_history if "loss" in told]
    seconds = clock.ended - clock.started
    return Trained(lambda: trainer.accelerator.unwrap_model(trainer.model), seconds, losses)


def trl_tuned(found: Material, folder: Path) -> Trained:
    """TRL at its fastest here: a record at a time, as many as make up the same step, nothing
    padded, masked or computed twice, and memory kept as ours keeps it.

    Packed rows, and batches padded to one length, were slower: see NOTES.md.
    """
    from trimtab.train.speed import kept_memory

    tuned: dict[str, Any] = {
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": len(found.taught) // found.steps,
    }
    if found.settings.packing:
        tuned["packing"] = False
    with kept_memory():
        return trl(found, folder, **tuned)


def held_out(model: Any, found: Material) -> float:
    """Mean loss over the held-out records, by plain transformers, in nats a token.

    Of a pair that of the chosen answer.
    """
    import torch

    model.eval()
    total = count = 0.0
    for row in found.rows(found.held_out):
        tokens = torch.tensor([[*row.prompt, *row.completion]])
        with torch.inference_mode():
            logits = model(input_ids=tokens, use_cache=False).logits[0, len(row.prompt) - 1 : -1]
        wanted = torch.tensor(row.completion)
        total += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
        count += len(wanted)
    return total / count


SYSTEMS: dict[str, Run] = {
    "trimtab": trimtab,
    "trl": trl,
    "trl-tuned": trl_tuned,
    "ms-swift": ms_swift,
    "torchtune": torchtune,
}

if __name__ == "__main__":
    main()
