"""What a suite asks: items, and the few shots that may go before them.

Knows nothing of where records come from; `flows` turns the records of a split into items.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.canonical import canonical_json
from trimtab.evaluate.judge import gold_fields
from trimtab.inference import Message

# Who speaks before the dialogue begins.
HEAD = ("tools", "system")


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its gold answer. `id` is the hash of the record it comes from.

    `rejected` is an answer that was found worse than the gold one, empty where there is none.
    """

    id: str
    messages: tuple[Message, ...]
    answer: str
    rejected: str = ""


def choose_shots(items: Sequence[Item], count: int, match: Sequence[str]) -> tuple[Message, ...]:
    """Up to `count` training items as turns of a dialogue, the same ones for the same items.

    Each next shot is the one whose `match` fields show most values that no earlier shot showed;
    among equals the shortest, then the smallest id. System turns are left out: the question that
    follows brings its own.
    """
    left = sorted(items, key=lambda item: (_length(item), item.id))
    shown: set[bytes] = set()
    turns: list[Message] = []
    for _ in range(min(count, len(left))):
        best = max(left, key=lambda item: len(_labels(item, match) - shown))
        left.remove(best)
        shown |= _labels(best, match)
        turns += [message for message in best.messages if message.role not in HEAD]
        turns.append(Message("assistant", best.answer))
    return tuple(turns)


def with_shots(messages: Sequence[Message], shots: Sequence[Message]) -> tuple[Message, ...]:
    """The shots go after the leading tools and system turn, and before everything else."""
    head = next((at for at, each in enumerate(messages) if each.role not in HEAD), len(messages))
    return (*messages[:head], *shots, *messages[head:])


def _length(item: Item) -> int:
    return sum(len(message.content) for message in item.messages) + len(item.answer)


def _labels(item: Item, match: Sequence[str]) -> set[bytes]:
    gold = gold_fields(item.id, item.answer, match) if match else {}
    return {canonical_json([field, gold[field]]) for field in match}
