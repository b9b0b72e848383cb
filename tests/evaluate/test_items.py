import json
import random

import pytest

from trimtab.evaluate.items import Item, choose_shots, with_shots
from trimtab.inference import Message


def item(name: str, intent: str, urgency: str, words: int = 3) -> Item:
    answer = json.dumps({"intent": intent, "urgency": urgency})
    return Item(name, (Message("user", f"{name} " * words),), answer)


ITEMS = [
    item("a", "billing", "low"),
    item("b", "billing", "low", words=1),
    item("c", "billing", "high", words=9),
    item("d", "bug", "high", words=5),
    item("e", "bug", "low", words=2),
    item("f", "login", "high", words=40),
]


def test_shots_show_every_label_before_any_twice() -> None:
    turns = choose_shots(ITEMS, 3, ["intent", "urgency"])
    answers = [json.loads(turn.content) for turn in turns if turn.role == "assistant"]
    assert [answer["intent"] for answer in answers] == ["bug", "billing", "login"]
    assert {answer["urgency"] for answer in answers} == {"low", "high"}
    assert turns[0].content == "e e "  # the shortest one goes first


@pytest.mark.parametrize("match", [[], ["intent"], ["intent", "urgency"]])
def test_the_order_of_items_does_not_change_the_shots(match: list[str]) -> None:
    shuffled = list(ITEMS)
    random.Random(3).shuffle(shuffled)
    assert choose_shots(shuffled, 3, match) == choose_shots(ITEMS, 3, match)


def test_fewer_items_than_asked_for_are_all_shown() -> None:
    assert len(choose_shots(ITEMS[:1], 3, ["intent"])) == 2
    assert choose_shots([], 3, []) == ()
    assert choose_shots(ITEMS, 0, []) == ()


def test_shots_stand_between_the_system_turn_and_the_question() -> None:
    system, user = Message("system", "s"), Message("user", "q")
    shots = (Message("user", "q1"), Message("assistant", "a1"))
    assert with_shots([system, user], shots) == (system, *shots, user)
    assert with_shots([user], shots) == (*shots, user)


def test_the_system_turn_of_a_training_item_is_not_repeated_in_its_shot() -> None:
    whole = Item("g", (Message("system", "s"), Message("user", "q")), "a")
    assert [turn.role for turn in choose_shots([whole], 1, [])] == ["user", "assistant"]
