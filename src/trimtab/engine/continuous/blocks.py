"""The places of the key-value cache, in blocks, and which of them hold a known prefix.

A block is named by a hash over the version, the blocks before it and its own tokens. So a prompt
that begins as an earlier one did finds the blocks of their common beginning, and no version finds
those of another. Where it goes its own way inside a block, it finds the one that begins with most
of its tokens, to copy that part. Blocks that nobody reads stay until their place is needed, the
longest unread first. Pure bookkeeping: knows nothing of tensors.
"""

import bisect
import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

BLOCK = 16
"""Tokens in a block."""


class Content(NamedTuple):
    """What a block holds: some tokens, at most BLOCK, behind the block that is named `before`."""

    version: str
    before: bytes
    tokens: tuple[int, ...]


class Part(NamedTuple):
    """The first `tokens` tokens of a block, a number."""

    block: int
    tokens: int


class Blocks:
    """`count` blocks, numbered from 0."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._readers = [0] * count
        self._contents: dict[int, Content] = {}
        self._named: dict[bytes, int] = {}
        self._after: dict[bytes, list[tuple[tuple[int, ...], int]]] = {}
        """The blocks behind the one of that name, in the order of their tokens."""
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Blocks that `take` could give now."""
        return len(self._free) + len(self._idle)

    def take(self) -> int:
        """A block of one's own. Raises IndexError where none is available."""
        if not self._free:
            self._forget(next(iter(self._idle)))
        block = self._free.pop()
        self._readers[block] = 1
        return block

    def give_back(self, blocks: Sequence[int]) -> None:
        """One reader less for each; what has a name and no reader can be found again."""
        # The end of a chain is of no use without its beginning, so it goes first.
        for block in reversed(blocks):
            self._readers[block] -= 1
            if self._readers[block]:
                continue
            if block in self._contents:
                self._idle[block] = None
            else:
                self._free.append(block)

    def find(self, names: Sequence[bytes]) -> list[int]:
        """The blocks of the longest known beginning of a chain, with one reader more each."""
        found = []
        for name in names:
            if (block := self._named.get(name)) is None:
                break
            self._readers[block] += 1
            self._idle.pop(block, None)
            found.append(block)
        return found

    def known(self, names: Sequence[bytes]) -> int:
        """How many blocks `find` would give."""
        unknown = (at for at, name in enumerate(names) if name not in self._named)
        return next(unknown, len(names))

    def nearest(self, before: bytes, tokens: tuple[int, ...]) -> Part | None:
        """The part of a block behind `before` that has most of the first `tokens`; None where no
        block begins with one of them.
        """
        others = self._after.get(before, [])
        # In order, what has most in common with a row is beside its place.
        at = bisect.bisect_left(others, (tokens, -1))
        beside = [
            Part(block, common(tokens, own)) for own, block in others[max(0, at - 1) : at + 1]
        ]
        best = max(beside, key=lambda part: part.tokens, default=None)
        return best if best is not None and best.tokens else None

    def used(self, block: int) -> None:
        """It was read, if only to be copied from."""
        if block in self._idle:
            self._idle.move_to_end(block)

    def name(self, block: int, content: Content) -> None:
        """Let a block be found by what it holds by now; where another holds the same already, that
        one stays it. As a block fills up it is named again.
        """
        if block in self._contents:
            self._forget(block)
        name = follow(content.before, content.tokens)
        if name not in self._named:
            self._named[name] = block
            self._contents[block] = content
            bisect.insort(self._after.setdefault(content.before, []), (content.tokens, block))

    def forget(self, version: str) -> None:
        """No block of a version is found any more."""
        for block in [block for block, of in self._contents.items() if of.version == version]:
            self._forget(block)

    def _forget(self, block: int) -> None:
        _, before, tokens = self._contents.pop(block)
        del self._named[follow(before, tokens)]
        others = self._after[before]
        del others[bisect.bisect_left(others, (tokens, block))]
        if not others:
            del self._after[before]
        if block in self._idle:
            del self._idle[block]
            self._free.append(block)


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def root(version: str) -> bytes:
    """What the first block of a version's chains follows."""
    return hashlib.blake2b(version.encode(), digest_size=16).digest()


def follow(before: bytes, tokens: Sequence[int]) -> bytes:
    """The name of a block that holds `tokens` behind the one named `before`."""
    return hashlib.blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()


def chain(before: bytes, tokens: Sequence[int]) -> list[bytes]:
    """The name of every full block of `tokens`, which follow a block or a `root`."""
    names = []
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        before = follow(before, tokens[start : start + BLOCK])
        names.append(before)
    return names
