import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.engine.general.roomy import ROOM, RoomyLayer

ROWS, HEADS, WIDTH = 3, 2, 4

# What can happen to a layer: so many tokens appended, some of its rows chosen, its rows repeated.
events = st.lists(
    st.integers(1, ROOM + 5) | st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=ROWS),
    max_size=12,
)


@given(events=events)
def test_it_holds_what_concatenation_would(events: list[int | list[int]]) -> None:
    layer = RoomyLayer()
    keys = torch.empty(ROWS, HEADS, 0, WIDTH)
    for number, event in enumerate(events):
        if isinstance(event, int):
            new = torch.full((len(keys), HEADS, event, WIDTH), float(number))
            keys = torch.cat([keys, new], dim=2)
            given_keys, given_values = layer.update(new, -new)
            assert torch.equal(given_keys, keys)
            assert torch.equal(given_values, -keys)
        else:
            rows = torch.tensor([row % len(keys) for row in event])
            keys = keys[rows]
            layer.batch_select_indices(rows)
        assert layer.get_seq_length() == keys.shape[2]


def test_a_repeated_prefix_is_not_shared_between_rows() -> None:
    layer = RoomyLayer()
    layer.update(torch.ones(1, HEADS, 2, WIDTH), torch.ones(1, HEADS, 2, WIDTH))
    layer.batch_repeat_interleave(2)
    own = torch.arange(2.0).reshape(2, 1, 1, 1).expand(2, HEADS, 1, WIDTH)
    keys, _ = layer.update(own, own)
    assert keys[0, :, -1].eq(0).all()
    assert keys[1, :, -1].eq(1).all()
    assert keys[:, :, :2].eq(1).all()


def test_one_token_more_does_not_copy_the_others() -> None:
    layer = RoomyLayer()
    one = torch.ones(ROWS, HEADS, 1, WIDTH)
    first, _ = layer.update(one, one)
    second, _ = layer.update(one, one)
    assert first.data_ptr() == second.data_ptr()
