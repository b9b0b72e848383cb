import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.engine.general.layout import WORTH_SHARING, common_prefix, lay_out

CPU = torch.device("cpu")
rows_of_tokens = st.lists(
    st.lists(st.integers(1, 3), min_size=1, max_size=90), min_size=1, max_size=5
)


@given(rows=rows_of_tokens, shared=st.lists(st.integers(1, 9), max_size=70))
def test_every_row_can_be_read_back(rows: list[list[int]], shared: list[int]) -> None:
    rows = [[*shared, *row] for row in rows]
    layout = lay_out(rows, min(len(row) for row in rows) - 1, CPU)
    width = len(layout.prefix)
    for i, row in enumerate(rows):
        real = layout.mask[i, width:].bool()
        assert [*layout.prefix, *layout.ids[i][real].tolist()] == row
        assert layout.positions[i][real].tolist() == list(range(width, len(row)))
        assert bool(real[-1])
    assert layout.mask.shape == (len(rows), width + layout.ids.shape[1])


def test_a_prefix_is_shared_only_where_it_pays() -> None:
    long, short = WORTH_SHARING, WORTH_SHARING - 1
    assert len(lay_out([[1] * long + [2], [1] * long + [3]], long, CPU).prefix) == long
    assert lay_out([[1] * short + [2], [1] * short + [3]], short, CPU).prefix == ()
    assert lay_out([[1] * 500], 499, CPU).prefix == ()


@pytest.mark.parametrize(
    ("rows", "limit", "length"),
    [
        ([[1, 2, 3], [1, 2, 4]], 2, 2),
        ([[1, 2, 3]], 2, 2),
        ([[1], [2]], 0, 0),
        ([[1, 2], [3, 2]], 1, 0),
    ],
)
def test_common_prefix(rows: list[list[int]], limit: int, length: int) -> None:
    assert common_prefix(rows, limit) == length
