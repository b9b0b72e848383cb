"""A trained reward model: answers in, scores out. Imports torch, transformers and peft."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from trimtab.inference import Message
from trimtab.text.chat import ChatFormat
from trimtab.train.methods import METHODS
from trimtab.train.model import load, quiet
from trimtab.train.rewards import Reward, Rollout
from trimtab.train.speed import device


class RewardModel:
    """A base with the scalar head and the adapter that a run of objective `reward` left."""

    def __init__(self, base: Path, adapter: Path, chat: ChatFormat) -> None:
        machine = device()
        with quiet():
            loaded = load(base, machine, METHODS["lora"], scores=True)
            self._model: Any = PeftModel.from_pretrained(loaded, str(adapter)).eval()
        self._chat = chat
        tokenizer = chat.tokenizer
        self._padding = tokenizer.id_of(tokenizer.pad_token or tokenizer.eos_token or "")

    def scores(self, dialogues: Sequence[Sequence[Message]]) -> list[float]:
        """One score a dialogue that ends in an answer; higher is better.

        One at a time: nothing is padded.
        """
        return [self._score(dialogue) for dialogue in dialogues]

    def _score(self, dialogue: Sequence[Message]) -> float:
        rendered = self._chat.supervised(self._chat.messages_of(dialogue))
        end = len(rendered.mask) - rendered.mask[::-1].index(True)
        # Training reads the score at the last token that is not padding; where the end of a turn is
        # what pads, that is the token before it.
        while end > 1 and rendered.tokens[end - 1] == self._padding:
            end -= 1
        tokens = torch.tensor([rendered.tokens[:end]], device=self._model.device)
        with torch.inference_mode():
            return float(self._model(input_ids=tokens).logits[0, 0])

    def reward(self, name: str, identity: str) -> Reward:
        """As a reward for training."""

        def score(rollouts: Sequence[Rollout]) -> list[float]:
            return self.scores([(*r.prompt, Message("assistant", r.answer)) for r in rollouts])

        return Reward(name, identity, score)
