"""What transformers and PEFT say, computed apart from the engine: one prompt at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


@dataclass(frozen=True)
class Said:
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


class Reference:
    """A base in float32, with or without an adapter."""

    def __init__(self, base: Path, adapter: Path | None = None) -> None:
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter)
        self._model = model.eval()

    def greedy(
        self, prompt: Sequence[int], count: int, stop: int = 2, repetition_penalty: float = 1.0
    ) -> Said:
        """`generate` of transformers; the logarithms are of its unprocessed logits."""
        ids = torch.tensor([prompt])
        with torch.no_grad():
            output = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                do_sample=False,
                repetition_penalty=repetition_penalty,
                eos_token_id=stop,
                pad_token_id=stop,
                return_dict_in_generate=True,
                output_logits=True,
            )
        tokens = output.sequences[0, len(prompt) :].tolist()
        rows = [logits[0].log_softmax(-1) for logits in output.logits]
        return Said(
            tuple(tokens), tuple(float(row[t]) for row, t in zip(rows, tokens, strict=True))
        )

    def score(self, prompt: Sequence[int], completion: Sequence[int]) -> tuple[float, ...]:
        """One plain forward pass over prompt and completion."""
        with torch.no_grad():
            logits = self._model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0]
        rows = logits.log_softmax(-1)[len(prompt) - 1 :]
        return tuple(float(rows[at, token]) for at, token in enumerate(completion))
