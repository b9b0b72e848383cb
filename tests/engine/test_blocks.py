"""The bookkeeping of the cache: nothing is given twice, nothing is lost, nothing is mixed up."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trimtab.engine.blocks import BLOCK, Blocks, chain

COUNT = 6


def test_a_chain_names_full_blocks_only() -> None:
    tokens = list(range(2 * BLOCK + 5))
    names = chain("v", tokens)
    assert len(names) == 2
    assert chain("v", tokens[BLOCK : 2 * BLOCK], before=names[0]) == names[1:]


@given(
    st.lists(st.integers(0, 3), min_size=BLOCK, max_size=3 * BLOCK),
    st.lists(st.integers(0, 3), min_size=BLOCK, max_size=3 * BLOCK),
)
def test_names_are_equal_exactly_where_everything_before_is(
    one: list[int], other: list[int]
) -> None:
    for at, (a, b) in enumerate(zip(chain("v", one), chain("v", other), strict=False)):
        end = (at + 1) * BLOCK
        assert (a == b) == (one[:end] == other[:end])
    assert not set(chain("v", one)) & set(chain("w", one))


class Bookkeeping(RuleBasedStateMachine):
    """Readers take, name, find and give back blocks in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = Blocks(COUNT)
        self.held: list[list[int]] = []
        self.content: dict[int, bytes] = {}
        self.owner: dict[bytes, str] = {}

    @precondition(lambda self: self.blocks.available)
    @rule()
    def take(self) -> None:
        block = self.blocks.take()
        assert not any(block in held for held in self.held)
        self.content.pop(block, None)
        self.held.append([block])

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 9), name=st.integers(0, 3), version=st.sampled_from("vw"))
    def name(self, which: int, name: int, version: str) -> None:
        [block, *_] = self.held[which % len(self.held)]
        label = f"{version}{name}".encode()
        if block not in self.content:
            self.blocks.name(block, label, version)
            self.content[block] = label
            self.owner[label] = version

    @rule(name=st.integers(0, 3), version=st.sampled_from("vw"))
    def find(self, name: int, version: str) -> None:
        label = f"{version}{name}".encode()
        known = self.blocks.known([label])
        found = self.blocks.find([label])
        assert len(found) == known
        for block in found:
            assert self.content[block] == label
            self.held.append([block])

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 9))
    def give_back(self, which: int) -> None:
        self.blocks.give_back(self.held.pop(which % len(self.held)))

    @rule(version=st.sampled_from("vw"))
    def forget(self, version: str) -> None:
        self.blocks.forget(version)
        assert not any(
            self.blocks.known([label]) for label, of in self.owner.items() if of == version
        )

    @invariant()
    def every_block_is_held_or_available(self) -> None:
        held = {block for blocks in self.held for block in blocks}
        assert len(held) + self.blocks.available == COUNT


TestBookkeeping = Bookkeeping.TestCase


def test_the_longest_unread_goes_first() -> None:
    blocks = Blocks(3)
    names = [b"a", b"b", b"c"]
    for name in names:
        block = blocks.take()
        blocks.name(block, name, "v")
        blocks.give_back([block])
    blocks.give_back(blocks.find([b"a"]))
    blocks.take()
    assert [blocks.known([name]) for name in names] == [1, 0, 1]


@pytest.mark.parametrize("names", [(), (b"x",), (b"x", b"y")])
def test_nothing_is_found_where_nothing_was_named(names: Sequence[bytes]) -> None:
    assert Blocks(2).find(names) == []
