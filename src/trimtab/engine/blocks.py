"""The places of the key-value cache, in blocks, and which of them hold a known prefix.

A full block is named by a hash over the version, the blocks before it and its own tokens. So a
prompt that begins as an earlier one did finds the blocks of their common beginning, and no version
finds those of another. Blocks that nobody reads stay until their place is needed, the longest
unread first. Pure bookkeeping: knows nothing of tensors.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

BLOCK = 16
"""Tokens in a block."""


class Blocks:
    """`count` blocks, numbered from 0."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._readers = [0] * count
        self._names: dict[int, bytes] = {}
        self._versions: dict[int, str] = {}
        self._named: dict[bytes, int] = {}
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
            if block in self._names:
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

    def name(self, block: int, name: bytes, version: str) -> None:
        """Let a full block be found; where another holds the same already, that one stays it."""
        if name not in self._named:
            self._named[name] = block
            self._names[block] = name
            self._versions[block] = version

    def forget(self, version: str) -> None:
        """No block of a version is found any more."""
        for block in [block for block, of in self._versions.items() if of == version]:
            self._forget(block)

    def _forget(self, block: int) -> None:
        del self._named[self._names.pop(block)]
        del self._versions[block]
        if block in self._idle:
            del self._idle[block]
            self._free.append(block)


def chain(version: str, tokens: Sequence[int], before: bytes = b"") -> list[bytes]:
    """The name of every full block of `tokens`; `before` is the name of the block they follow."""
    names = []
    name = before or hashlib.blake2b(version.encode(), digest_size=16).digest()
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        own = array("q", tokens[start : start + BLOCK]).tobytes()
        name = hashlib.blake2b(name + own, digest_size=16).digest()
        names.append(name)
    return names
