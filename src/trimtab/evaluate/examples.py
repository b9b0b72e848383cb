"""Which held-out items the page shows side by side, chosen by a rule and not by hand."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from trimtab.evaluate.holdout import HoldoutItem
from trimtab.evaluate.items import Item
from trimtab.evaluate.judge import parse_object


@dataclass(frozen=True, slots=True)
class Example:
    """What was asked, the gold answer, and the answers of the first and the last row."""

    asked: str
    gold: str
    first: str
    first_right: bool
    last: str
    last_right: bool


@dataclass(frozen=True, slots=True)
class Examples:
    """The chosen examples and how many items each of the four outcomes has."""

    chosen: tuple[Example, ...]
    gained: int
    lost: int
    both_right: int
    both_wrong: int


def choose_examples(
    items: Sequence[Item],
    first: Sequence[HoldoutItem],
    last: Sequence[HoldoutItem],
    count: int = 6,
) -> Examples:
    """Take turns among items gained, lost, right in both and wrong in both, by ascending id.

    So a version's failures are shown as long as it has any.
    """
    before = {answered.id: answered for answered in first}
    after = {answered.id: answered for answered in last}
    outcomes: dict[tuple[bool, bool], list[Example]] = {
        (False, True): [], (True, False): [], (False, False): [], (True, True): [],
    }  # fmt: skip
    for item in sorted(items, key=lambda item: item.id):
        one, other = before[item.id], after[item.id]
        outcomes[one.exact, other.exact].append(_example(item, one, other))
    turns = zip_longest(*outcomes.values())
    chosen = [example for turn in turns for example in turn if example is not None]
    return Examples(
        chosen=tuple(chosen[:count]),
        gained=len(outcomes[False, True]),
        lost=len(outcomes[True, False]),
        both_right=len(outcomes[True, True]),
        both_wrong=len(outcomes[False, False]),
    )


def _example(item: Item, first: HoldoutItem, last: HoldoutItem) -> Example:
    return Example(
        asked=item.messages[-1].content,
        gold=_laid_out(item.answer),
        first=_laid_out(first.answer),
        first_right=first.exact,
        last=_laid_out(last.answer),
        last_right=last.exact,
    )


def _laid_out(answer: str) -> str:
    """A JSON object with one field a line; any other text as it came."""
    fields = parse_object(answer)
    return json.dumps(fields, indent=2, ensure_ascii=False) if fields else answer.strip()
