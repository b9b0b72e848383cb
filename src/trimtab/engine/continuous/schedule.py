"""Which sequences a step computes, and how much of each. Pure bookkeeping, no tensors.

Sequences join and leave at any step. Those that only need their next token always take part;
prompts are read in chunks beside them, so that a long one does not hold up the others. Where the
cache is full the last to come makes room, and begins again later; so it does where one of a higher
priority comes and finds no place.
"""

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from trimtab.engine.continuous.blocks import BLOCK, Blocks, common
from trimtab.engine.continuous.room import RUNNING
from trimtab.engine.continuous.sequence import Sequence
from trimtab.engine.jobs import PRIORITIES

WORTH_WAITING = BLOCK // 4
"""Tokens of another's prompt, of a block's part, that one waits for: a step of its own costs about
as much as to read so many.
"""


class Copy(NamedTuple):
    """The first `tokens` tokens of a block, a number, to be copied into another."""

    source: int
    target: int
    tokens: int


class Share(NamedTuple):
    """The next `tokens` tokens of a sequence, a number; its blocks have room for them."""

    sequence: Sequence
    tokens: int


class Schedule:
    """`prompt_tokens` bounds how many tokens of prompts one step reads, `running` how many
    sequences take part in it.
    """

    def __init__(self, blocks: Blocks, prompt_tokens: int, running: int = RUNNING) -> None:
        self.blocks = blocks
        self._prompt_tokens = prompt_tokens
        self._most = running
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, Sequence]] = []
        self._running: list[tuple[int, int, Sequence]] = []
        self._promised: dict[bytes, int] = {}
        """Names of blocks that are being computed, each with the highest priority of those that
        compute it.
        """
        self._coming: dict[bytes, list[tuple[int, tuple[int, ...]]]] = {}
        """By what it follows, the block that a prompt is at: its priority and tokens."""
        self.copies: list[Copy] = []

    def add(self, sequence: Sequence) -> None:
        priority = PRIORITIES.index(sequence.job.request.priority)
        bisect.insort(self._waiting, (priority, next(self._order), sequence))

    def __iter__(self) -> Iterator[Sequence]:
        """All sequences that are not done."""
        return (sequence for _, _, sequence in itertools.chain(self._running, self._waiting))

    def waiting(self, rank: int) -> int:
        """Jobs with sequences that wait, and that do not give way to a priority of this rank."""
        return len({id(sequence.job) for of, _, sequence in self._waiting if of <= rank})

    def next(self, beside_streams: float = math.inf, token_s: float = 0.0) -> list[Share]:
        """The shares of the next step; first all `copies` must be made, in their order, then it
        must be computed and told to `computed`. Where answers have begun, it reads no more of
        prompts than `beside_streams` tokens. To read one takes some `token_s` seconds.
        """
        self.copies = []
        self._admit()
        shares: list[Share] = []
        budget = self._prompt_tokens
        if any(sequence.streaming for _, _, sequence in self._running):
            budget = int(min(budget, beside_streams))
        for entry in self._turns(token_s):
            sequence = entry[2]
            count = sequence.portion(budget)
            if count == 0 or entry not in self._running or not self._make_room(entry, count):
                continue
            # One that computes its answer again goes on by the token, whatever is left to read.
            budget = max(0, budget - count) if sequence.left > 1 else budget
            shares.append(Share(sequence, count))
        # A share that was given may have had to make room for one before it in order.
        running = {id(sequence) for _, _, sequence in self._running}
        return [share for share in shares if id(share.sequence) in running]

    def computed(self, shares: list[Share]) -> None:
        """What was computed is remembered, and can be found by those that begin alike."""
        for sequence, count in shares:
            sequence.held += count
            full = min(sequence.held // BLOCK, len(sequence.names))
            for at in range(sequence.named, full):
                self.blocks.name(sequence.blocks[at], sequence.content(at))
            sequence.named = max(sequence.named, full)
            if count > 1:
                self._name_rest(sequence)
        self._promise()

    def leave(self, gone: Callable[[Sequence], bool]) -> None:
        """Forget the sequences that are `gone`; what they held is free, or found by others."""
        stay = []
        # Each is asked once: its client may leave between two questions.
        for entry in self._running:
            if gone(entry[2]):
                self._release(entry[2])
            else:
                stay.append(entry)
        self._running = stay
        self._waiting = [entry for entry in self._waiting if not gone(entry[2])]
        self._promise()

    def _turns(self, token_s: float) -> list[tuple[int, int, Sequence]]:
        """Within a priority in the order in which each would be read if it were alone: what the
        cache has most of need not wait for a long prompt that came with it, and no prompt waits for
        those that come when it could have been read.
        """

        def due(entry: tuple[int, int, Sequence]) -> tuple[int, float]:
            priority, _, sequence = entry
            return priority, sequence.job.arrived + sequence.left * token_s

        return sorted(self._running, key=due)

    def _admit(self) -> None:
        """Let sequences in while there is room for their prompts; where there is none, those of a
        lower priority make it.

        One whose beginning is being computed by another waits for it, and finds it then.
        """
        still = []
        full = False
        for entry in self._waiting:
            priority, _, sequence = entry
            full = full or (self._has_all() and self._running[-1][0] <= priority)
            if full or self._is_promised(entry):
                still.append(entry)
                continue
            found = self.blocks.find(sequence.names[: sequence.shareable])
            needed = -(-len(sequence.tokens) // BLOCK) - len(found)
            enough = self._would_fit(needed, priority)
            while enough and not self._fits(needed) and self._running[-1][0] > priority:
                still.append(self._running.pop())
                self._release(still[-1][2])
            if not self._fits(needed):
                self.blocks.give_back(found)
                full = True
                still.append(entry)
                continue
            self._begin(sequence, found)
            bisect.insort(self._running, entry)
            self._promise_of(entry)
        # Those that made room stand behind one that came later, until they are in order again.
        self._waiting = sorted(still)

    def _has_all(self) -> bool:
        """Whether as many run as may."""
        return len(self._running) >= self._most

    def _fits(self, blocks: int) -> bool:
        """Whether one more that needs so many blocks can run; alone it always can."""
        if not self._running:
            return True
        owed = _owed(sequence for _, _, sequence in self._running)
        return not self._has_all() and blocks + owed <= self.blocks.available

    def _would_fit(self, blocks: int, priority: int) -> bool:
        """Whether it is worth it that those of lower priorities make room."""
        stay = [sequence for of, _, sequence in self._running if of <= priority]
        given = sum(len(sequence.blocks) for of, _, sequence in self._running if of > priority)
        return not stay or (
            len(stay) < self._most and blocks + _owed(stay) <= self.blocks.available + given
        )

    def _begin(self, sequence: Sequence, found: list[int]) -> None:
        """Behind the blocks that were found, and what another has of the next one. A copy may be
        made even if its source is taken in the same step: nothing is computed before all are made.
        """
        held = len(found) * BLOCK
        part = self.blocks.nearest(sequence.before(len(found)), sequence.part(len(found)))
        if part is not None and self.blocks.available:
            self.blocks.used(part.block)
            found.append(self.blocks.take())
            self.copies.append(Copy(part.block, found[-1], part.tokens))
            held += part.tokens
        sequence.found(found, held)

    def _is_promised(self, entry: tuple[int, int, Sequence]) -> bool:
        """Whether one of its priority, or of a higher one, is computing what it begins with."""
        priority, _, sequence = entry
        at = self.blocks.known(sequence.names[: sequence.shareable])
        if at < sequence.shareable:
            promised = self._promised.get(sequence.names[at])
            if promised is not None and promised <= priority:
                return True
        before, part = sequence.before(at), sequence.part(at)
        there = self.blocks.nearest(before, part)
        coming = (
            common(part, tokens) for of, tokens in self._coming.get(before, ()) if of <= priority
        )
        return max(coming, default=0) >= WORTH_WAITING + (0 if there is None else there.tokens)

    def _promise(self) -> None:
        self._promised, self._coming = {}, {}
        for entry in self._running:
            self._promise_of(entry)

    def _promise_of(self, entry: tuple[int, int, Sequence]) -> None:
        priority, _, sequence = entry
        for name in sequence.names[sequence.named : sequence.shareable]:
            self._promised[name] = min(priority, self._promised.get(name, priority))
        # A prompt of several steps may be read long after one that shares a few tokens with it.
        if 1 < sequence.left <= self._prompt_tokens and not sequence.apart:
            at = sequence.named
            own = tuple(sequence.tokens[at * BLOCK : (at + 1) * BLOCK])
            self._coming.setdefault(sequence.before(at), []).append((priority, own))

    def _make_room(self, entry: tuple[int, int, Sequence], count: int) -> bool:
        """Blocks for the next `count` tokens; whether the sequence has them."""
        sequence = entry[2]
        needed = -(-(sequence.held + count) // BLOCK) - len(sequence.blocks)
        while needed > self.blocks.available:
            last = self._running[-1]
            self._put_off(last)
            if last is entry:
                return False
        sequence.blocks += [self.blocks.take() for _ in range(needed)]
        return True

    def _put_off(self, entry: tuple[int, int, Sequence]) -> None:
        self._running.remove(entry)
        self._release(entry[2])
        bisect.insort(self._waiting, entry)

    def _name_rest(self, sequence: Sequence) -> None:
        """What was computed of a block that is not full yet; see `Generation` of those apart."""
        at, rest = divmod(sequence.held, BLOCK)
        if rest and not sequence.apart:
            self.blocks.name(sequence.blocks[at], sequence.content(at))

    def _release(self, sequence: Sequence) -> None:
        self._name_rest(sequence)
        self.blocks.give_back(sequence.blocks)
        sequence.blocks, sequence.held, sequence.named = [], 0, 0


def _owed(running: Iterable[Sequence]) -> int:
    """Blocks that they will take for what they are to read."""
    return sum(
        max(0, -(-len(sequence.tokens) // BLOCK) - len(sequence.blocks)) for sequence in running
    )
