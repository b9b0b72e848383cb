"""The batches of a run, by its settings and the lengths of its records alone: what trains in which
step, and how many steps there are. Knows no tokens and no models.
"""

from collections.abc import Sequence

from trimtab.errors import DataError
from trimtab.train.objectives import objective_of
from trimtab.train.order import batch_order, packed_rows
from trimtab.train.settings import TrainSettings

# Batches of rows of places in the list of records; a row is one record, or several packed.
Layout = list[list[list[int]]]


def layout_of(settings: TrainSettings, lengths: Sequence[int]) -> Layout:
    """All batches in their order, that of the most tokens first, so that running out of memory
    comes at once.

    Raises DataError where there are too few prompts for one step of answers.
    """
    rollouts = objective_of(settings.objective).rollouts
    examples = settings.examples(len(lengths))
    if settings.packing:
        rows = packed_rows(
            lengths, examples=examples, max_length=settings.max_length, seed=settings.seed
        )
        return _widest_first(cut(rows, settings.batch_size), lengths)
    width = max(1, settings.batch_size // settings.generations) if rollouts else settings.batch_size
    order = batch_order(lengths, examples=examples, batch_size=width, seed=settings.seed)
    if rollouts:
        order = _whole(order, width, settings.accumulation)
    return [[[place] for place in batch] for batch in order]


def cut(rows: list[list[int]], width: int) -> Layout:
    """Rows in batches of as many; only the last one may have fewer."""
    return [rows[start : start + width] for start in range(0, len(rows), width)]


def steps_of(layout: Layout, settings: TrainSettings) -> int:
    """How many optimizer steps a run over such batches takes."""
    return -(-len(layout) // settings.accumulation) * settings.iterations


def tokens_of(batch: list[list[int]], lengths: Sequence[int]) -> int:
    """Tokens of a batch's records."""
    return sum(lengths[place] for row in batch for place in row)


def _widest_first(layout: Layout, lengths: Sequence[int]) -> Layout:
    whole, short = layout[:-1], layout[-1:]
    if not whole or len(short[0]) == len(whole[0]):
        whole, short = layout, []
    widest = max(range(len(whole)), key=lambda at: tokens_of(whole[at], lengths))
    return [whole[widest], *whole[:widest], *whole[widest + 1 :], *short]


def _whole(order: list[list[int]], width: int, accumulation: int) -> list[list[int]]:
    """The steps that are full: answers are compared within a batch."""
    whole = [batch for batch in order if len(batch) == width]
    whole = whole[: len(whole) // accumulation * accumulation]
    if not whole:
        raise DataError(
            f"{len(order)} batches of prompts do not fill one step of {accumulation} x {width}",
            hint="lower train.batch_size or train.accumulation, or add records",
        )
    return whole
