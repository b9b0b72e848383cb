import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from trimtab.train.order import batch_order, packed_rows

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=120)


@given(lengths=LENGTHS, share=st.floats(0.1, 3.0), size=st.integers(1, 16), seed=st.integers(0, 9))
def test_each_record_comes_once_before_any_comes_twice(
    lengths: list[int], share: float, size: int, seed: int
) -> None:
    examples = max(1, round(share * len(lengths)))
    order = batch_order(lengths, examples=examples, batch_size=size, seed=seed)
    counts = Counter(row for batch in order for row in batch)
    least = examples // len(lengths)
    assert sum(counts.values()) == examples
    assert all(least <= counts[row] <= least + 1 for row in range(len(lengths)))


@given(lengths=LENGTHS, size=st.integers(1, 16), seed=st.integers(0, 9))
def test_only_the_last_batch_is_short(lengths: list[int], size: int, seed: int) -> None:
    order = batch_order(lengths, examples=len(lengths), batch_size=size, seed=seed)
    assert all(len(batch) == size for batch in order[:-1])
    assert 1 <= len(order[-1]) <= size


@given(lengths=LENGTHS, size=st.integers(1, 16))
def test_the_longest_whole_batch_comes_first(lengths: list[int], size: int) -> None:
    order = batch_order(lengths, examples=len(lengths), batch_size=size, seed=0)
    longest = [max(lengths[row] for row in batch) for batch in order if len(batch) == size]
    assert not longest or longest[0] == max(longest)


@given(lengths=LENGTHS, size=st.integers(1, 16), seed=st.integers(0, 9))
def test_the_same_seed_gives_the_same_order(lengths: list[int], size: int, seed: int) -> None:
    once, again = (
        batch_order(lengths, examples=2 * len(lengths), batch_size=size, seed=seed)
        for _ in range(2)
    )
    assert once == again


def test_batches_hold_records_of_like_length() -> None:
    draw = random.Random(0)
    lengths = [draw.randint(50, 150) for _ in range(512)]

    def padding(batches: list[list[int]]) -> int:
        return sum(max(lengths[r] for r in batch) - lengths[r] for batch in batches for r in batch)

    unsorted = [list(range(i, i + 8)) for i in range(0, 512, 8)]
    grouped = batch_order(lengths, examples=512, batch_size=8, seed=1)
    assert padding(grouped) < padding(unsorted) / 3


@given(lengths=LENGTHS, share=st.floats(0.1, 3.0), seed=st.integers(0, 9))
def test_packed_rows_hold_every_record_as_often_and_never_too_much(
    lengths: list[int], share: float, seed: int
) -> None:
    examples = max(1, round(share * len(lengths)))
    rows = packed_rows(lengths, examples=examples, max_length=500, seed=seed)
    assert rows == packed_rows(lengths, examples=examples, max_length=500, seed=seed)
    counts = Counter(record for row in rows for record in row)
    least = examples // len(lengths)
    assert sum(counts.values()) == examples
    assert all(least <= counts[record] <= least + 1 for record in range(len(lengths)))
    sizes = [sum(lengths[record] for record in row) for row in rows]
    assert all(rows)
    assert sizes[0] == max(sizes) <= 500


def test_packed_rows_are_full() -> None:
    draw = random.Random(0)
    lengths = [draw.randint(50, 400) for _ in range(400)]
    rows = packed_rows(lengths, examples=400, max_length=1024, seed=1)
    assert sum(lengths) / (1024 * len(rows)) > 0.97
