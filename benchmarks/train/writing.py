"""What share of the machine's rate a model reaches while it writes answers to learn from.

    python -m benchmarks.train.writing

This is the plan's WRITING (trimtab/plan/cost.py): operations of one more token of every answer of
a batch, over the time that transformers takes for it, over the rate of a large matrix product.
"""

import time
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from benchmarks.serve.material import base_folder
from trimtab.train.speed import device, gemm_rate

# A batch of the default size, prompts and answers of usual lengths.
ROWS, PROMPT, ANSWER = 8, 64, 32
TRIES = 3


def main() -> None:
    torch.manual_seed(17)
    base: Any = AutoModelForCausalLM.from_pretrained(base_folder(), dtype=torch.float32)
    parameters = sum(parameter.numel() for parameter in base.parameters())
    model: Any = get_peft_model(base, LoraConfig(r=16, target_modules="all-linear"))
    prompts = torch.randint(100, 40_000, (ROWS, PROMPT))
    # The prompt itself is read in the passes that learn from it.
    one, whole = (
        min(_seconds(model, prompts, count) for _ in range(TRIES)) for count in (1, ANSWER)
    )
    operations = 2 * parameters * ROWS * (ANSWER - 1)
    share = operations / (whole - one) / gemm_rate(device())
    print(
        f"{ROWS} answers: {1000 * (whole - one) / (ANSWER - 1):.0f} ms a token, share {share:.3f}"
    )


def _seconds(model: Any, prompts: torch.Tensor, count: int) -> float:
    started = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            min_new_tokens=count,
            max_new_tokens=count,
            do_sample=True,
            pad_token_id=0,
        )
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
