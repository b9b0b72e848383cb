"""What a trained model says, asked through plain transformers: greedy, or drawn; and how likely."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from trimtab.text.chat import ChatFormat

Prompt = tuple[int, ...]


class Sampler:
    """A model of a folder, in float32."""

    def __init__(self, folder: Path, chat: ChatFormat) -> None:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model = loaded.eval()
        self._chat = chat
        self._stops = list(chat.stop_tokens())

    def greedy(self, prompts: Sequence[Prompt], length: int) -> list[str]:
        found = [self._generate(prompt, length, do_sample=False)[0] for prompt in prompts]
        return [self.text(self._cut(answer)) for answer in found]

    def drawn(self, prompt: Prompt, length: int, count: int) -> list[Prompt]:
        """Answers at temperature 1 from all tokens, stop token included."""
        found = self._generate(prompt, length, do_sample=True, top_k=0, num_return_sequences=count)
        return [self._cut(answer) for answer in found]

    def text(self, answer: Prompt) -> str:
        return self._chat.tokenizer.decode([token for token in answer if token not in self._stops])

    @torch.inference_mode()
    def logprobs(self, prompt: Prompt, answer: Prompt) -> Tensor:
        """Of each token of the answer."""
        logits = self.model(input_ids=torch.tensor([prompt + answer])).logits[0]
        table = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
        found: Tensor = table.gather(1, torch.tensor(answer)[:, None])[:, 0]
        return found

    def _generate(self, prompt: Prompt, length: int, **how: Any) -> list[Prompt]:
        tokens = torch.tensor([prompt])
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=length,
                eos_token_id=self._stops,
                pad_token_id=self._stops[0],
                **how,
            )
        return [tuple(row[len(prompt) :].tolist()) for row in out]

    def _cut(self, answer: Prompt) -> Prompt:
        ends = [at for at, token in enumerate(answer) if token in self._stops]
        return answer[: ends[0] + 1] if ends else answer
