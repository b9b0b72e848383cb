"""What a stream holds: each beginning once, each label with the place that predicts it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.train.stream.stream import IGNORED, SHORTEST, TILE, lay_out

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=60), min_size=1, max_size=6)


def labelled(rows: list[list[int]]) -> list[list[int]]:
    """Every third token is a label, and the last one."""
    return [
        [t if i % 3 == 0 or i == len(row) - 1 else IGNORED for i, t in enumerate(row)]
        for row in rows
    ]


@settings(max_examples=60)
@given(rows=ROWS, beginning=st.integers(0, 40), share=st.booleans())
def test_every_label_sees_its_own_row_and_nothing_else(
    rows: list[list[int]], beginning: int, share: bool
) -> None:
    rows = [[1] * beginning + row for row in rows]
    labels = labelled(rows)
    stream = lay_out(rows, labels, share=share)
    wanted = [
        (row[:place], label)
        for row, marks in zip(rows, labels, strict=True)
        for place, label in enumerate(marks)
        if place and label != IGNORED
    ]
    for blocks, places in ((stream.blocks(), range(len(stream.tokens))), stream.asked()[::-1]):
        seen = {}
        for block in blocks:
            before = [place for span in block.past for place in range(*span)]
            count = block.last - block.first
            for query in range(block.first, block.last):
                own = range(block.own[0], block.own[1] - count + query - block.first + 1)
                seen[places[query]] = [*before, *own]
        found = [
            ([stream.tokens[place] for place in seen[source]], target)
            for source, target in zip(stream.sources, stream.targets, strict=True)
        ]
        assert found == wanted
        for source in stream.sources:
            assert [stream.positions[place] for place in seen[source]] == [
                *range(len(seen[source]))
            ]


def test_a_beginning_stands_once() -> None:
    system, prompts = [7] * 40, ([1] * 20, [2] * 30)
    rows = [system + prompt + [answer] * 5 for prompt in prompts for answer in (3, 4)]
    labels = [[IGNORED] * (len(row) - 5) + row[-5:] for row in rows]
    stream = lay_out(rows, labels)
    assert len(stream.tokens) == 40 + 20 + 30 + 4 * 4
    assert len(lay_out(rows, labels, share=False).tokens) == sum(len(row) - 1 for row in rows)


def test_a_short_beginning_is_not_worth_a_branch() -> None:
    rows = [[1] * (SHORTEST - 1) + [answer] * 5 for answer in (2, 3)]
    labels = [[IGNORED] * SHORTEST + row[SHORTEST:] for row in rows]
    assert len(lay_out(rows, labels).tokens) == sum(len(row) - 1 for row in rows)


def test_the_last_layer_asks_from_the_first_label_on() -> None:
    row = list(range(TILE + 100))
    labels = [[IGNORED] * 90 + row[90:]]
    places, blocks = lay_out([row], labels).asked()
    assert places == list(range(89, len(row) - 1))
    assert [(block.first, block.last, block.own) for block in blocks] == [
        (0, TILE, (0, 89 + TILE)),
        (TILE, len(places), (0, len(row) - 1)),
    ]
