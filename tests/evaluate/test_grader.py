"""A grade is the share of "yes" that a plain transformers computes."""

import asyncio
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.tiny import build_base
from trimtab.engine.local import LocalEngine
from trimtab.evaluate.grader import Grader
from trimtab.inference import Message, VersionFiles
from trimtab.text.chat import ChatFormat

PROMPT = (Message("user", "My invoice is wrong."),)
ANSWERS = ("Sorry, we will mend it.", "The quick brown fox.", "no")


def test_a_grade_is_the_share_of_yes(tmp_path: Path) -> None:
    base = build_base(tmp_path / "base")
    chat = ChatFormat.from_folder(base, system="never shown to a judge")
    engine = LocalEngine(base, torch.float32, torch.device("cpu"))
    try:
        asyncio.run(engine.load(VersionFiles("judge", base, None, base, chat.stop_tokens())))
        grader = Grader(engine, "judge", chat, "A good answer is polite.")
        found = asyncio.run(grader.grades([(PROMPT, answer) for answer in ANSWERS]))
    finally:
        engine.close()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    for answer, grade in zip(ANSWERS, found, strict=True):
        asked = grader.question(PROMPT, answer)
        assert "A good answer is polite." in asked
        assert answer in asked
        prompt = chat.prompt_tokens([Message("user", asked)])
        totals = []
        for word in ("yes", "no"):
            said = tuple(chat.tokenizer.encode(word))
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([prompt + said])).logits[0]
            table = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
            totals.append(table.gather(1, torch.tensor(said)[:, None]).sum())
        assert grade == pytest.approx(float(torch.softmax(torch.stack(totals), 0)[0]), abs=1e-5)
    assert len(set(found)) == 3
