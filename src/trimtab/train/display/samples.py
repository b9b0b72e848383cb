"""What the model answers while it learns: a few prompts, the likeliest token each time.

Asked beside the training, so that it goes on as if nobody had asked, and seldom enough to cost it
little. Imports torch; import it only where a run starts.
"""

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from trimtab.train.aside import aside
from trimtab.train.prepare import Prepared
from trimtab.train.rows import Row
from trimtab.train.run import write_json

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

PROMPTS, TOKENS = 3, 32
# The share of a run's time that its samples may take before the next ones are passed over.
SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt, what its record answers, and what the model did: (step, answer)."""

    prompt: str
    gold: str
    answers: tuple[tuple[int, str], ...] = ()


class Samples:
    """The samples of a run, kept in `file`."""

    def __init__(self, prepared: Prepared, file: Path) -> None:
        self._file = file
        self._rows = chosen(prepared)
        # A completion ends in a stop token: preflight has seen to it.
        self._stops = sorted({row.completion[-1] for row in prepared.checked.examples})
        self._spent = 0.0
        lessons = [prepared.lessons[row.record] for row in self._rows]
        self.asked = [Asked(each.prompt[-1].content, each.answer) for each in lessons]

    def forget_after(self, step: int) -> None:
        """Take those of earlier attempts, up to where the run goes on."""
        if not self._file.is_file():
            return
        self.asked = [
            Asked(prompt, gold, tuple((at, text) for at, text in answers if at <= step))
            for prompt, gold, answers in json.loads(self._file.read_bytes())
        ]

    def due(self, seconds: float) -> bool:
        """Whether they have cost little of a run of so many seconds so far."""
        return self._spent <= SHARE * seconds

    def take(self, model: Any, tokenizer: "PreTrainedTokenizerBase", step: int) -> None:
        """Ask all prompts now."""
        began = time.monotonic()
        texts = answers(model, tokenizer, self._rows, self._stops)
        self.asked = [
            Asked(each.prompt, each.gold, (*each.answers, (step, text)))
            for each, text in zip(self.asked, texts, strict=True)
        ]
        write_json(self._file, [[a.prompt, a.gold, [*map(list, a.answers)]] for a in self.asked])
        self._spent += time.monotonic() - began


def chosen(prepared: Prepared) -> list[Row]:
    """Rows of records that are held out, else of records that are trained on, by the seed."""
    by_record = {row.record: row for row in prepared.held or prepared.checked.examples}
    count = min(PROMPTS, len(by_record))
    return [
        by_record[record]
        for record in random.Random(prepared.settings.seed).sample(sorted(by_record), count)
    ]


def answers(
    model: Any, tokenizer: "PreTrainedTokenizerBase", rows: list[Row], stops: list[int]
) -> list[str]:
    """The likeliest continuation of each prompt, 32 tokens at the most."""
    width = max(len(row.prompt) for row in rows)
    tokens = torch.full((len(rows), width), stops[0])
    seen = torch.zeros_like(tokens)
    for at, row in enumerate(rows):
        # Padded on the left, so that every answer begins in the same column.
        tokens[at, width - len(row.prompt) :] = torch.tensor(row.prompt)
        seen[at, width - len(row.prompt) :] = 1
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=TOKENS,
        eos_token_id=stops,
        pad_token_id=stops[0],
        use_cache=True,
    )
    with aside(model):
        made = model.generate(
            input_ids=tokens.to(model.device),
            attention_mask=seen.to(model.device),
            generation_config=config,
        )
    texts: list[str] = tokenizer.batch_decode(made[:, width:], skip_special_tokens=True)
    return [text.strip() for text in texts]
