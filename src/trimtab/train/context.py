"""The base's context beside what a row takes of it: positions that nothing was taught are refused.

Knows config.json and no model.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from trimtab.train.objectives import objective_of
from trimtab.train.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Context:
    """The `tokens` that a base was taught to read, None where it does not say; `taken` are those
    of each row that are no record's: virtual ones, and an answer of the model's own.
    """

    tokens: int | None = None
    taken: int = 0

    def too_small(self, length: int) -> str:
        """Why so many tokens of a record do not fit; empty where they do."""
        if self.tokens is None or length + self.taken <= self.tokens:
            return ""
        more = f" and {self.taken} beside them" if self.taken else ""
        return f"{length} tokens{more}, more than the base's context of {self.tokens}"


WITHOUT_BOUND = Context()


def context_of(base: Path, settings: TrainSettings) -> Context:
    """What a run has of its base's context; a folder that holds no base is found out elsewhere."""
    file = base / "config.json"
    config = json.loads(file.read_bytes()) if file.is_file() else {}
    tokens = config.get("text_config", config).get("max_position_embeddings")
    virtual = settings.rank if settings.method in ("prompt", "prefix") else 0
    answer = settings.answer if objective_of(settings.objective).rollouts else 0
    return Context(tokens, virtual + answer)
