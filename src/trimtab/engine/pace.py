"""How fast a path computes, as its last steps showed, and how long what is asked of it takes.

A step of few tokens costs nearly as much as one of many, so what a token costs depends on how many
go beside it: the last steps tell best. Knows nothing of queues.
"""

from dataclasses import dataclass

WEIGHT = 0.2
"""Of the last observation among those before it."""


@dataclass(slots=True)
class Pace:
    """Seconds a token of a prompt that has to be read, seconds a token of an answer; tokens of an
    answer, and the share of a prompt that is in the cache already, both on the average. Zero where
    nothing was measured: what nobody knows is held against nobody.

    Told by the computing thread, asked by any.
    """

    prompt_s: float = 0.0
    token_s: float = 0.0
    answer: float = 0.0
    cached: float = 0.0

    def step(self, read: int, written: int, seconds: float) -> None:
        """One step read so many tokens of prompts and computed so many of answers."""
        if read:
            self.prompt_s = _mixed(self.prompt_s, seconds / (read + written))
        elif written:
            self.token_s = _mixed(self.token_s, seconds / written)

    def ended(self, prompt: int, cached: int, answer: int) -> None:
        """An answer is whole."""
        self.answer = _mixed(self.answer, answer)
        self.cached = (1 - WEIGHT) * self.cached + WEIGHT * cached / prompt

    def seconds(self, prompt: int, answer: int) -> float:
        """What a request takes of the path's time: a prompt, and an answer of at most so many."""
        return prompt * (1 - self.cached) * self.prompt_s + min(answer, self.answer) * self.token_s


def _mixed(before: float, found: float) -> float:
    return found if not before else (1 - WEIGHT) * before + WEIGHT * found
