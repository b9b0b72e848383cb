"""The work that a run is: what is trained on, and in which portions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

# Methods that the trainer leaves to transformers, which pads: it computes no stream of them.
UNSTREAMED = ("prompt", "prefix", "bottleneck")


@dataclass(frozen=True, slots=True)
class Packed:
    """Of rows that hold several records: how many batches they make over all epochs, and the most
    of one batch: its records, the tokens that it computes, and their labels; of one row likewise.
    """

    batches: int
    records: int
    tokens: int
    labels: int
    row_records: int
    row_tokens: int
    row_labels: int


@dataclass(frozen=True, slots=True)
class Work:
    """Counts of one pass over the data, and how often and in which portions it is made.

    `tokens` and `supervised` count all records together; `longest` is the longest record;
    `shared_prefix` the tokens that every prompt begins with, computed once a batch, 0 where they
    are not. Of each record `rows` go through the model: two of a pair, and as many answers as are
    made of a prompt, `written` tokens each. A batch is learnt from `iterations` times, and read
    `forwards` times without gradients beside each. `reference`: a frozen copy is kept.
    `checkpointed`: a layer is to keep its input alone. `packed`, where a batch is not of
    `batch_size` records but of as many rows filled with them. A batch has `fewest` rows at least.
    Half of the records are no longer than `median`, 0 where that is not known.
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
    packed: Packed | None = None
    fewest: int = 1
    median: int = 0

    def by(self, method: str) -> "Work":
        """As a method computes it. What virtual tokens stand before, or what hangs beside a layer,
        is no stream: records share nothing, and each is as long as the longest of its batch.
        """
        if method not in UNSTREAMED:
            return self
        computed = self.rank if method == "prompt" else 0
        longest, packed = self.longest + computed, self.packed
        return replace(
            self,
            tokens=self.tokens + computed * self.rows * self.records,
            longest=longest,
            shared_prefix=0,
            packed=packed and replace(packed, tokens=packed.records * longest),
        )

    @property
    def batches(self) -> int:
        if self.packed is not None:
            return self.packed.batches
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
        if self.packed is not None:
            return self.packed.tokens
        rows = self.rows * min(self.batch_size, self.records)
        return self.shared_prefix + rows * (self.longest - self.shared_prefix)

    @property
    def widest_labels(self) -> float:
        """Labels of that batch, if its answers are as long a part of it as everywhere."""
        if self.packed is not None:
            return self.packed.labels
        rows = self.rows * min(self.batch_size, self.records)
        return rows * self.longest * self.supervised / self.tokens

    def in_batches_of(self, rows: int) -> "Work":
        """The same steps of smaller batches, as many rows each; `batch_size` is a multiple."""
        times = self.batch_size // rows
        packed = self.packed
        if packed is not None:
            packed = replace(
                packed,
                batches=packed.batches * times,
                records=min(packed.records, rows * packed.row_records),
                tokens=min(packed.tokens, rows * packed.row_tokens),
                labels=min(packed.labels, rows * packed.row_labels),
            )
        accumulation = self.accumulation * times
        return replace(self, batch_size=rows, accumulation=accumulation, packed=packed)

    def cut_at(self, longest: int) -> "Work":
        """The same without the records that have more tokens; a packed row has as many."""
        packed = self.packed
        if packed is not None:
            row = self.batch_size * longest
            packed = replace(packed, tokens=min(packed.tokens, row), labels=min(packed.labels, row))
        shared = min(self.shared_prefix, longest)
        return replace(self, longest=longest, shared_prefix=shared, packed=packed)
