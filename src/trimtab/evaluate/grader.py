"""A model that judges: how sure it is that an answer meets a rubric.

It says nothing: "yes" and "no" are scored behind the question, and the grade is the share of "yes"
in the probability of both (as G-Eval weighs its scores by their tokens' probabilities, Liu et al.
2023). So a grade is a number between 0 and 1, the same each time, and costs one pass. The answer is
quoted to the judge and may try to talk to it: a rubric can say that, and nothing prevents it.
"""

import asyncio
import math
import uuid
from collections.abc import Sequence

from trimtab.inference import Engine, Message, ScoreRequest
from trimtab.text.chat import ChatFormat

YES, NO = "yes", "no"


class Grader:
    """A version of an engine with a rubric; the engine holds the version already."""

    def __init__(self, engine: Engine, version: str, chat: ChatFormat, rubric: str) -> None:
        self._engine = engine
        self._version = version
        self._chat = chat
        self._rubric = rubric.strip()
        encode = chat.tokenizer.encode
        self._words = tuple(encode(YES)), tuple(encode(NO))

    async def grades(self, asked: Sequence[tuple[Sequence[Message], str]]) -> list[float]:
        """One grade a dialogue and its answer, in their order."""
        return list(await asyncio.gather(*(self._grade(*each) for each in asked)))

    async def _grade(self, prompt: Sequence[Message], answer: str) -> float:
        tokens = self._chat.prompt_tokens([Message("user", self.question(prompt, answer))])
        request = ScoreRequest(self._version, tokens, self._words, uuid.uuid4().hex, "batch")
        yes, no = (sum(score.logprobs) for score in await self._engine.score(request))
        return 1 / (1 + math.exp(min(700.0, no - yes)))

    def question(self, prompt: Sequence[Message], answer: str) -> str:
        """What the judge is asked."""
        dialogue = "\n".join(f"{message.role}: {message.content}" for message in prompt)
        return (
            f"{self._rubric}\n\nThe dialogue:\n{dialogue}\n\nThe answer:\n{answer}\n\n"
            f"Does the answer meet this? Say {YES} or {NO}."
        )
