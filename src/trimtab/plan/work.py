"""The work that a run is: what is trained on, and in which portions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Work:
    """Counts of one pass over the data, and how often and in which portions it is made.

    `tokens` and `supervised` count all records together; `longest` is the longest record;
    `shared_prefix` the tokens that every prompt begins with, computed once a batch, 0 where they
    are not. Of each record `rows` go through the model: two of a pair, and as many answers as are
    made of a prompt, `written` tokens each. A batch is learnt from `iterations` times, and read
    `forwards` times without gradients beside each. `reference`: a frozen copy is kept.
    `checkpointed`: a layer is to keep its input alone.
    """

    records: int
    tokens: int
    supervised: int
    longest: int
    shared_prefix: int
    epochs: float
    batch_size: int
    accumulation: int
    rank: int
    targets: str | Sequence[str]
    rows: int = 1
    written: int = 0
    forwards: int = 0
    iterations: int = 1
    reference: bool = False
    checkpointed: bool = False

    def by(self, method: str) -> "Work":
        """As a method computes it: what virtual tokens stand before is shared by no two rows."""
        if method not in ("prompt", "prefix"):
            return self
        computed = self.rank if method == "prompt" else 0
        return replace(
            self,
            tokens=self.tokens + computed * self.rows * self.records,
            longest=self.longest + computed,
            shared_prefix=0,
        )

    @property
    def batches(self) -> int:
        return math.ceil(self.examples / self.batch_size)

    @property
    def examples(self) -> int:
        return max(1, round(self.epochs * self.records))

    @property
    def computed_tokens(self) -> float:
        """Tokens that are learnt from, over all epochs; padding is left out."""
        own = self.tokens / self.records - self.shared_prefix
        return self.iterations * (self.examples * own + self.batches * self.shared_prefix)

    @property
    def labelled_tokens(self) -> float:
        """Tokens whose logits are computed, over all epochs."""
        return self.iterations * self.examples * self.supervised / self.records

    @property
    def steps_of_writing(self) -> int:
        """How often one more token of each answer of a batch is made, over all epochs."""
        return self.batches * self.written

    @property
    def widest_batch(self) -> int:
        """Tokens held at once when the batch of the longest records is computed."""
        rows = self.rows * min(self.batch_size, self.records)
        return self.shared_prefix + rows * (self.longest - self.shared_prefix)

    @property
    def widest_labels(self) -> float:
        """Labels of that batch, if its answers are as long a part of it as everywhere."""
        rows = self.rows * min(self.batch_size, self.records)
        return rows * self.longest * self.supervised / self.tokens
