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
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.serve.material import base_folder
from benchmarks.train.material import Material, material

# The quickstart's own warm-up would leave the first step, here the only one, at a rate of nothing.
SCHEDULE: dict[str, Any] = {"lr_scheduler_type": "cosine", "warmup_steps": 0}
# Trains, and gives what loads the result, and the seconds.
Run = Callable[[Material, Path], "tuple[Callable[[], Any], float]"]


def main() -> None:
    print(json.dumps(cell(*sys.argv[1:], whole=True)))


def cell(system: str, case: str, *, whole: bool) -> dict[str, float]:
    """The figures of one system on one case; with `whole` also what every round finds alike, the
    loss on held-out records, and what of the time were products.
    """
    found = material(case)
    with tempfile.TemporaryDirectory() as folder:
        result, seconds = SYSTEMS[system](found, Path(folder))
        # A second copy of the base would count as memory of the training.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        tokens = sum(row.size for row in found.rows(found.taught))
        told = {"tokens": tokens, "tok_s": tokens / seconds, "peak_mb": peak}
        if whole:
            model = result()
            told["final_loss"] = held_out(model, found)
        if whole and system == "trimtab":
            from benchmarks.train.limit import share

            told["share_of_limit"] = share(model, found, seconds)
    return told


def product_rate() -> float:
    """Operations a second of a matrix product."""
    from trimtab.train.speed import device, gemm_rate

    return gemm_rate(device())


def trimtab(found: Material, folder: Path) -> tuple[Callable[[], Any], float]:
    """The room `train` as a project calls it, saved behind its last step."""
    from peft import PeftModel

    from trimtab.train.start import train

    clock: list[float] = []
    settings = replace(found.settings, extra={"save_steps": found.steps, **SCHEDULE})
    result = train(
        base_folder(),
        found.chat,
        found.taught,
        settings,
        folder / "run",
        on_step=lambda step: clock.append(step.seconds),
    )
    adapter = str(result.files.adapter)
    return lambda: PeftModel.from_pretrained(loaded(found), adapter, is_trainable=True), clock[-1]


def loaded(found: Material) -> Any:
    """The base in float32, or for QLoRA its matrices in 4 bits, as the quickstart has them."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    more: dict[str, Any] = {}
    if found.settings.method == "qlora":
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
    return AutoModelForCausalLM.from_pretrained(base_folder(), dtype=torch.float32, **more)


def trl(found: Material, folder: Path, **tuned: Any) -> tuple[Callable[[], Any], float]:
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
    return lambda: trainer.accelerator.unwrap_model(trainer.model), clock.ended - clock.started


def trl_tuned(found: Material, folder: Path) -> tuple[Callable[[], Any], float]:
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


SYSTEMS: dict[str, Run] = {"trimtab": trimtab, "trl": trl, "trl-tuned": trl_tuned}

if __name__ == "__main__":
    main()
