import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import DataError
from trimtab.train.layout import layout_of, steps_of, tokens_of
from trimtab.train.settings import TrainSettings

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=60)
SETTINGS = TrainSettings(batch_size=2, accumulation=3, max_length=200)


def test_steps_are_batches_and_an_odd_one_is_a_step() -> None:
    settings = TrainSettings(batch_size=8, accumulation=2, epochs=3)
    layout = layout_of(settings, [9] * 100)
    assert (len(layout), steps_of(layout, settings)) == (38, 19)
    least = TrainSettings(epochs=0.001)
    assert steps_of(layout_of(least, [9] * 3), least) == 1


def test_packed_there_are_as_many_steps_as_full_rows_make() -> None:
    settings = dataclasses.replace(SETTINGS, packing=True)
    layout = layout_of(settings, [50] * 48)
    assert [len(row) for batch in layout for row in batch] == [4] * 12
    assert steps_of(layout, settings) == 2
    assert steps_of(layout_of(SETTINGS, [50] * 48), SETTINGS) == 8


@given(lengths=LENGTHS, packing=st.booleans(), size=st.integers(1, 4))
def test_the_widest_whole_batch_comes_first(lengths: list[int], packing: bool, size: int) -> None:
    settings = dataclasses.replace(SETTINGS, packing=packing, batch_size=size)
    layout = layout_of(settings, lengths)
    whole = [batch for batch in layout if len(batch) == size]
    places = [place for batch in layout for row in batch for place in row]
    assert sorted(places) == list(range(len(lengths)))
    assert all(len(batch) == size for batch in layout[:-1])
    if packing:
        widths = [tokens_of(batch, lengths) for batch in whole]
    else:
        # A padded batch is as wide as its longest record.
        widths = [max(lengths[place] for row in batch for place in row) for batch in whole]
    assert not whole or widths[0] == max(widths)


def test_prompts_that_fill_no_step_of_answers_are_too_few() -> None:
    asked = dataclasses.replace(SETTINGS, objective="grpo", batch_size=8)
    with pytest.raises(DataError, match="do not fill one step of 3 x 2"):
        layout_of(asked, [10] * 5)
    assert len(layout_of(asked, [10] * 7)) == 3
