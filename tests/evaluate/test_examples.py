from tests.evaluate.made import CANDIDATE, INCUMBENT, holdout
from trimtab.evaluate.examples import choose_examples
from trimtab.evaluate.items import Item
from trimtab.inference import Message


def test_every_kind_of_outcome_is_shown_in_turn() -> None:
    before = holdout(INCUMBENT, [0, 0, 0, 0, 0, 0, 1, 1, 0])
    after = holdout(CANDIDATE, [1, 1, 1, 1, 1, 1, 1, 0, 0])
    items = [
        Item(f"{n:064x}", (Message("system", "s"), Message("user", f"Ticket {n}")), '{"a": 1}')
        for n in range(9)
    ]
    examples = choose_examples(items, before.items, after.items)
    assert (examples.gained, examples.lost) == (6, 1)
    assert (examples.both_right, examples.both_wrong) == (1, 1)
    asked = [example.asked for example in examples.chosen]
    assert asked == [f"Ticket {n}" for n in (0, 7, 8, 6, 1, 2)]
    assert (examples.chosen[1].first_right, examples.chosen[1].last_right) == (True, False)
    assert examples.chosen[0].gold == '{\n  "a": 1\n}'


def test_fewer_items_than_examples_are_all_shown() -> None:
    report = holdout(CANDIDATE, [1])
    item = Item(report.items[0].id, (Message("user", "q"),), "plain")
    assert len(choose_examples([item], report.items, report.items).chosen) == 1
