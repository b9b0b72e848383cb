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
from trimtab.train.online.rewards import Reward, Rollout
from trimtab.train.speed import device
from trimtab.train.stream.loss import parts
from trimtab.train.stream.scoring import scores
from trimtab.train.stream.walk import walkable


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

    @torch.inference_mode()
    def scores(self, dialogues: Sequence[Sequence[Message]]) -> list[float]:
        """One score a dialogue that ends in an answer; higher is better."""
        rows = [self._tokens(dialogue) for dialogue in dialogues]
        walked = walkable(self._model)
        # Elsewhere than in the stream one at a time: nothing is padded.
        found = [0.0] * len(rows)
        for part in parts(rows) if walked else [[place] for place in range(len(rows))]:
            asked = [rows[place] for place in part]
            told = scores(self._model, asked) if walked else self._plain(asked)
            for place, score in zip(part, told[:, 0].tolist(), strict=True):
                found[place] = score
        return found

    def _plain(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        tokens = torch.tensor(rows, device=self._model.device)
        logits: torch.Tensor = self._model(input_ids=tokens).logits
        return logits

    def _tokens(self, dialogue: Sequence[Message]) -> list[int]:
        rendered = self._chat.supervised(self._chat.messages_of(dialogue))
        end = len(rendered.mask) - rendered.mask[::-1].index(True)
        # Training reads the score at the last token that is not padding; where the end of a turn is
        # what pads, that is the token before it.
        while end > 1 and rendered.tokens[end - 1] == self._padding:
            end -= 1
        return list(rendered.tokens[:end])

    def reward(self, name: str, identity: str) -> Reward:
        """As a reward for training."""

        def score(rollouts: Sequence[Rollout]) -> list[float]:
            return self.scores([(*r.prompt, Message("assistant", r.answer)) for r in rollouts])

        return Reward(name, identity, score)
