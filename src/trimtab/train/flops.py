"""What a step of training computes, counted: the numerator of its model FLOPs utilisation (MFU).

A weight that is trained costs 6 operations a token: 2 forward, 2 for the gradient of its input, 2
for its own. A frozen one costs 4, for nothing asks for its own gradient. Attention costs 12 x width
a layer and pair of tokens that see each other: scores and values, forward and twice that backward
(Kaplan et al. 2020, section 2.1). The head counts where there are labels. A reference is one more
pass forward. What rows share is computed once. Work done twice, such as checkpointed activations,
is no work; norms, lookups and the optimizer are left out. Imports torch; import it only where a
run starts.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from trimtab.train.prepare import Prepared
from trimtab.train.rows import Example, Row
from trimtab.train.speed import gemm_rate
from trimtab.train.stream.stream import IGNORED, lay_out
from trimtab.train.stream.walk import Model, bare, walkable

TRAINED, FROZEN, FORWARD, ATTENTION = 6, 4, 2, 12
# How long the machine's rate is measured at the start of a run.
MEASURED_S = 0.05
# Objectives whose rows are computed as one stream, where the model can be walked.
STREAMED = ("sft", "dpo", "kto")


@dataclass(frozen=True, slots=True)
class StepWork:
    """Operations of the matrices a token, of the head a label, of attention a pair of tokens.

    `shares`: rows that begin alike are computed from where they differ.
    """

    matrices: float
    head: float
    attention: float
    shares: bool

    def of(self, batches: Iterable[Sequence[Row]]) -> float:
        """Floating-point operations of a step over these batches."""
        return sum(self._of_batch(rows) for rows in batches)

    def _of_batch(self, rows: Sequence[Row]) -> float:
        pairs = [pair for row in rows for pair in _read(row)]
        tokens, labels = [each for each, _ in pairs], [each for _, each in pairs]
        stream = lay_out(tokens, labels, share=self.shares)
        seen = sum(stream.positions) + len(stream.positions)
        return (
            self.matrices * len(stream.tokens)
            + self.attention * seen
            + self.head * len(stream.targets)
        )


def _read(row: Row) -> Iterator[tuple[list[int], list[int]]]:
    """What a row has computed, and the labels on it."""
    if isinstance(row, Example):
        pairs = zip(row.tokens, row.mask, strict=True)
        yield list(row.tokens), [token if taught else IGNORED for token, taught in pairs]
        return
    for answer in row.completions:
        yield [*row.prompt, *answer], [*[IGNORED] * len(row.prompt), *answer]


def step_work(model: Model, *, reference: bool, shares: bool) -> StepWork:
    """Count a model's own matrices. `reference`: it is also computed without its adapter."""
    extra = FORWARD if reference else 0
    causal: PreTrainedModel = bare(model)
    head = causal.get_output_embeddings()  # type: ignore[no-untyped-call]
    matrices = at_head = 0.0
    for module in model.modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        each = (TRAINED if module.weight.requires_grad else FROZEN) + extra
        work = float(module.in_features * module.out_features * each)
        if module is head:
            at_head += work
        else:
            matrices += work
    config = causal.config.get_text_config()
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    attention = float((ATTENTION + 2 * extra) * config.num_hidden_layers * width)
    return StepWork(matrices, at_head, attention, shares)


class Utilisation:
    """The share of the machine's rate of matrix products that the steps of a run reach."""

    def __init__(self, prepared: Prepared) -> None:
        self._steps = prepared.step_batches
        # What answers of its own cost is not known before they are made, and what a rank computes
        # is not what the run does.
        self._work: StepWork | None = None
        objective = prepared.objective
        # Nor does a product that XLA has only put down tell how long it takes.
        if objective.rollouts or prepared.share.ranks > 1 or prepared.machine.platform:
            return
        model = prepared.attached.model
        walked = objective.name in STREAMED and walkable(model)
        shares = walked and not prepared.settings.dropout
        self._work = step_work(model, reference=objective.reference, shares=shares)
        with torch.random.fork_rng():
            self._rate = gemm_rate(prepared.machine, MEASURED_S)

    def of(self, step: int, seconds: float) -> float | None:
        """Of the step of a number, counted from 1."""
        if self._work is None:
            return None
        return self._work.of(self._steps[step - 1]) / (seconds * self._rate)
