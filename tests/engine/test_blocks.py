"""The bookkeeping of the cache: nothing is given twice, nothing is lost, nothing is mixed up."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trimtab.engine.continuous.blocks import BLOCK, Blocks, Content, Part, chain, follow, root

COUNT = 6


def test_a_chain_names_full_blocks_only() -> None:
    tokens = list(range(2 * BLOCK + 5))
    names = chain(root("v"), tokens)
    assert len(names) == 2
    assert chain(names[0], tokens[BLOCK : 2 * BLOCK]) == names[1:]


@given(
    st.lists(st.integers(0, 3), min_size=BLOCK, max_size=3 * BLOCK),
    st.lists(st.integers(0, 3), min_size=BLOCK, max_size=3 * BLOCK),
)
def test_names_are_equal_exactly_where_everything_before_is(
    one: list[int], other: list[int]
) -> None:
    for at, (a, b) in enumerate(zip(named("v", one), named("v", other), strict=False)):
        end = (at + 1) * BLOCK
        assert (a == b) == (one[:end] == other[:end])
    assert not set(named("v", one)) & set(named("w", one))


def named(version: str, tokens: Sequence[int]) -> list[bytes]:
    return chain(root(version), tokens)


def content(version: str, *tokens: int) -> Content:
    """Of a first block of its own."""
    return Content(version, root(version), tokens)


def label(of: Content) -> bytes:
    return follow(of.before, of.tokens)


class Bookkeeping(RuleBasedStateMachine):
    """Readers take, name, find and give back blocks in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = Blocks(COUNT)
        self.held: list[list[int]] = []
        self.content: dict[int, Content] = {}

    @precondition(lambda self: self.blocks.available)
    @rule()
    def take(self) -> None:
        block = self.blocks.take()
        assert not any(block in held for held in self.held)
        self.content.pop(block, None)
        self.held.append([block])

    @precondition(lambda self: self.held)
    @rule(
        which=st.integers(0, 9),
        more=st.lists(st.integers(0, 2), min_size=1, max_size=3).map(tuple),
        version=st.sampled_from("vw"),
    )
    def name(self, which: int, more: tuple[int, ...], version: str) -> None:
        """One that has a name already has become fuller."""
        [block, *_] = self.held[which % len(self.held)]
        before = self.content.get(block, content(version))
        told = before._replace(tokens=before.tokens + more)
        self.blocks.name(block, told)
        self.content[block] = told

    @rule(tokens=st.lists(st.integers(0, 2), max_size=3).map(tuple), version=st.sampled_from("vw"))
    def find(self, tokens: tuple[int, ...], version: str) -> None:
        asked = [label(content(version, *tokens))]
        known = self.blocks.known(asked)
        found = self.blocks.find(asked)
        assert len(found) == known
        for block in found:
            assert self.content[block] == content(version, *tokens)
            self.held.append([block])

    @rule(tokens=st.lists(st.integers(0, 2), max_size=5).map(tuple), version=st.sampled_from("vw"))
    def nearest(self, tokens: tuple[int, ...], version: str) -> None:
        """Beside every block that can be found: none begins with more of the tokens."""
        part = self.blocks.nearest(root(version), tokens)
        if part is not None:
            own = self.content[part.block]
            assert part.tokens > 0
            assert own.version == version
            assert own.tokens[: part.tokens] == tokens[: part.tokens]
            self.blocks.used(part.block)
        for own in self.content.values():
            if own.version == version and self.blocks.known([label(own)]):
                most = next(
                    (
                        at
                        for at, pair in enumerate(zip(own.tokens, tokens, strict=False))
                        if pair[0] != pair[1]
                    ),
                    min(len(own.tokens), len(tokens)),
                )
                assert most <= (part.tokens if part is not None else 0)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 9))
    def give_back(self, which: int) -> None:
        self.blocks.give_back(self.held.pop(which % len(self.held)))

    @rule(version=st.sampled_from("vw"))
    def forget(self, version: str) -> None:
        self.blocks.forget(version)
        own = [label(of) for of in self.content.values() if of.version == version]
        assert not any(self.blocks.known([each]) for each in own)
        assert self.blocks.nearest(root(version), (0,)) is None

    @invariant()
    def every_block_is_held_or_available(self) -> None:
        held = {block for blocks in self.held for block in blocks}
        assert len(held) + self.blocks.available == COUNT


TestBookkeeping = Bookkeeping.TestCase


def test_the_longest_unread_goes_first() -> None:
    """What was copied from was read as well."""
    blocks = Blocks(4)
    known = [content("v", first, 9) for first in range(4)]
    for each in known:
        block = blocks.take()
        blocks.name(block, each)
        blocks.give_back([block])
    blocks.give_back(blocks.find([label(known[0])]))
    part = blocks.nearest(root("v"), (1, 7))
    assert part == Part(1, 1)
    blocks.used(part.block)
    blocks.take()
    blocks.take()
    assert [blocks.known([label(each)]) for each in known] == [1, 1, 0, 0]


def test_what_fills_up_is_found_by_what_it_holds_now() -> None:
    blocks = Blocks(2)
    block = blocks.take()
    for count in (2, 5):
        blocks.name(block, content("v", *range(count)))
        assert blocks.nearest(root("v"), tuple(range(9))) == Part(block, count)
    assert not blocks.known([label(content("v", 0, 1))])


@pytest.mark.parametrize("names", [(), (b"x",), (b"x", b"y")])
def test_nothing_is_found_where_nothing_was_named(names: Sequence[bytes]) -> None:
    assert Blocks(2).find(names) == []
