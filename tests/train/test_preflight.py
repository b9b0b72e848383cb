from pathlib import Path

import pytest

from tests.train.conftest import Records
from trimtab.errors import DataError
from trimtab.inference import Message
from trimtab.text.chat import ChatFormat
from trimtab.train.lesson import Lesson
from trimtab.train.objectives import objective_of
from trimtab.train.preflight import preflight

FORGETFUL = (
    "{% if messages[-1]['role'] == 'assistant' %}{{ 'done:' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + m['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
)
ENDLESS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
)
MUTE = (
    "{% for m in messages %}{{ '<|im_start|>' }}"
    "{{ m['content'] if m['role'] != 'assistant' }}{{ '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}"
)


def test_the_prompt_is_what_serving_sends(chat: ChatFormat, records: Records) -> None:
    example = preflight(chat, records, 512).examples[5]
    served = chat.prompt_tokens(chat.messages_of(records[5].prompt))
    assert example.prompt == served


def test_loss_is_on_the_answer_and_its_end(chat: ChatFormat, records: Records) -> None:
    example = preflight(chat, records, 512).examples[0]
    taught = list(example.completion)
    assert example.supervised == len(taught)
    assert chat.tokenizer.decode(taught[:-1]) == records[0].answer
    assert taught[-1] in chat.stop_tokens()


def test_it_counts_what_will_be_trained(chat: ChatFormat, records: Records) -> None:
    checked = preflight(chat, records, 512)
    told = checked.to_json()
    assert told["records"] == len(records)
    assert told["tokens"] == sum(e.size for e in checked.examples)
    assert 0 < told["supervised_share"] < 1
    assert told["dropped"] == []


def test_the_shared_prefix_is_the_system_message(chat: ChatFormat, records: Records) -> None:
    checked = preflight(chat, records, 512)
    prefix = checked.examples[0].prompt[: checked.shared_prefix]
    assert all(e.prompt[: len(prefix)] == prefix for e in checked.examples)
    assert chat.tokenizer.decode(list(prefix)).endswith("Hello,")


def test_a_long_record_is_dropped_with_its_reason(chat: ChatFormat, records: Records) -> None:
    long = Lesson((Message("user", "why " * 400), Message("assistant", "ok")))
    checked = preflight(chat, [*records, long], 512)
    assert len(checked.examples) == len(records)
    assert [d.record for d in checked.dropped] == [len(records)]
    assert "fills train.max_length 512" in checked.dropped[0].reason
    answer = Lesson((Message("user", "why?"), Message("assistant", "so " * 400)))
    [dropped] = preflight(chat, [*records, answer], 512).dropped
    assert "tokens, more than train.max_length 512" in dropped.reason


def test_nothing_left_is_an_error(chat: ChatFormat, records: Records) -> None:
    with pytest.raises(DataError, match="24 of 24 are longer than 16 tokens"):
        preflight(chat, records, 16)
    with pytest.raises(DataError, match="no record to train on"):
        preflight(chat, [], 512)


def test_a_record_without_an_answer_is_named(chat: ChatFormat, records: Records) -> None:
    with pytest.raises(DataError, match="training record 24"):
        preflight(chat, [*records, Lesson((Message("user", "hello?"),))], 512)


def test_a_preference_between_equal_answers_is_named(chat: ChatFormat, records: Records) -> None:
    equal = Lesson((Message("user", "why?"), Message("assistant", "so")), rejected="so")
    with pytest.raises(DataError, match="training record 24: chosen and rejected are the same"):
        preflight(chat, [*records, equal], 512, objective_of("dpo"))


BLANK = Lesson((Message("user", "why?"), Message("assistant", " \n\t ")))
WORDS = (Message("user", "why?"), Message("assistant", "so"))


@pytest.mark.parametrize(
    ("objective", "lesson", "fault"),
    [
        ("sft", BLANK, "no token of a word carries loss: the answer is blank"),
        ("dpo", Lesson(BLANK.messages, rejected="so"), "the answer is blank"),
        ("kto", Lesson(BLANK.messages, good=False), "the answer is blank"),
        ("kto", Lesson(WORDS, rejected=" \n"), "the answer is blank"),
        ("dpo", Lesson(WORDS, rejected=" \n"), "has no rejected answer"),
        ("dpo", Lesson(WORDS), "has no rejected answer"),
        ("orpo", Lesson(WORDS), "has no rejected answer"),
        ("reward", Lesson(WORDS, rejected="so"), "chosen and rejected are the same tokens"),
    ],
)
def test_a_record_that_would_teach_nothing_is_named(
    chat: ChatFormat, records: Records, objective: str, lesson: Lesson, fault: str
) -> None:
    with pytest.raises(DataError, match=f"training record 24: .*{fault}"):
        preflight(chat, [*records, lesson], 512, objective_of(objective))


def test_a_yardstick_may_be_blank_for_nothing_is_learnt_from_it(chat: ChatFormat) -> None:
    [row] = preflight(chat, [BLANK], 512, objective_of("grpo")).examples
    assert row.prompt


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_a_template_that_masks_every_word_stops_the_run(
    base: Path, records: Records, objective: str
) -> None:
    """The turns are closed, the masks are full, and no word of an answer is in them."""
    chat = ChatFormat.from_folder(base, source=MUTE)
    with pytest.raises(DataError, match=r"record 0: .* the chat template leaves the answer out"):
        preflight(chat, records, 512, objective_of(objective))


@pytest.mark.parametrize(("template", "fault"), [(FORGETFUL, "prefix"), (ENDLESS, "stop token")])
def test_a_template_that_cannot_be_trusted_stops_the_run(
    base: Path, records: Records, template: str, fault: str
) -> None:
    chat = ChatFormat.from_folder(base, source=template)
    with pytest.raises(DataError, match=f"training record 0: .*{fault}"):
        preflight(chat, records, 512)


def test_the_hash_follows_the_tokens(chat: ChatFormat, records: Records) -> None:
    whole = preflight(chat, records, 512)
    assert whole.hash == preflight(chat, records, 512).hash
    assert whole.hash != preflight(chat, records[1:], 512).hash
