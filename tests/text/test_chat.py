import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.text.test_template import GEMMA, LLAMA_3, MISTRAL
from tests.tiny import CHAT_TEMPLATE
from trimtab.errors import DataError
from trimtab.inference import Message
from trimtab.text.chat import ChatFormat

# Template, eos token of the model, and the token that ends a turn.
FORMATS = {
    "chatml": (CHAT_TEMPLATE, "<|im_end|>", "<|im_end|>"),
    "chatml with another eos": (CHAT_TEMPLATE, "</s>", "<|im_end|>"),
    "llama": (LLAMA_3, "<|eot_id|>", "<|eot_id|>"),
    "gemma": (GEMMA, "</s>", "<end_of_turn>"),
    "mistral": (MISTRAL, "</s>", "</s>"),
}
SPECIAL = (
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
)
FORGETFUL = (
    "{% for m in messages %}{% if m.role == 'user' and not loop.last %}<|im_start|>past"
    "{% else %}<|im_start|>{{ m.role }}{% endif %}{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
ENDLESS = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
DIALOGUE = (
    Message("user", "First?"),
    Message("assistant", "One."),
    Message("user", "Größe 🙂?"),
    Message("assistant", 'Answer: {"a": 1}'),
)
# No template trims inside of these, and no special token hides in them.
words = st.text(st.characters(codec="utf-8", exclude_characters="<", exclude_categories=("C", "Z")))


def build_format(folder: Path, template: str, eos: str, system: str = "") -> ChatFormat:
    """A format over a tokenizer of bytes and special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": eos, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return ChatFormat.from_folder(folder, system)


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatFormat]:
    folder = tmp_path_factory.mktemp("formats")
    return {
        name: build_format(folder / name.replace(" ", "-"), template, eos)
        for name, (template, eos, _) in FORMATS.items()
    }


def _learnt(chat_format: ChatFormat, messages: tuple[Message, ...]) -> str:
    whole = chat_format.supervised(messages)
    learnt = [token for token, counts in zip(whole.tokens, whole.mask, strict=True) if counts]
    return chat_format.tokenizer.decode(learnt, keep_special=True)


@pytest.mark.parametrize("name", FORMATS)
def test_loss_is_on_the_last_answer_and_its_end_of_turn(
    formats: dict[str, ChatFormat], name: str
) -> None:
    space = " " if name == "mistral" else ""

    assert _learnt(formats[name], DIALOGUE) == f'{space}Answer: {{"a": 1}}{FORMATS[name][2]}'


@pytest.mark.parametrize("name", FORMATS)
def test_training_sees_the_prompt_that_serving_sends(
    formats: dict[str, ChatFormat], name: str
) -> None:
    whole = formats[name].supervised(DIALOGUE)
    prompt = formats[name].prompt_tokens(DIALOGUE[:-1])

    assert whole.tokens[: len(prompt)] == prompt
    assert len(whole.mask) == len(whole.tokens)
    assert whole.mask.index(True) == len(prompt)


@given(question=words, answer=words.filter(bool))
def test_any_answer_is_learnt_whole(
    formats: dict[str, ChatFormat], question: str, answer: str
) -> None:
    messages = (Message("user", question), Message("assistant", answer))

    assert _learnt(formats["chatml"], messages) == f"{answer}<|im_end|>"


@pytest.mark.parametrize("name", FORMATS)
def test_stop_tokens_are_eos_and_end_of_turn(formats: dict[str, ChatFormat], name: str) -> None:
    chat_format = formats[name]
    expected = {chat_format.tokenizer.id_of(token) for token in FORMATS[name][1:]}

    assert chat_format.stop_tokens() == tuple(sorted(expected))


def test_a_generation_prompt_opens_the_answer(formats: dict[str, ChatFormat]) -> None:
    chat_format = formats["chatml"]
    prompt = chat_format.prompt_tokens([Message("user", "Hi")])

    assert chat_format.tokenizer.decode(prompt, keep_special=True) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_bos_is_there_once(formats: dict[str, ChatFormat]) -> None:
    for name in ("llama", "gemma", "mistral"):
        prompt = formats[name].prompt_tokens([Message("user", "Hi")])
        assert prompt.count(formats[name].tokenizer.id_of("<s>") or 0) == 1
        assert prompt[0] == formats[name].tokenizer.id_of("<s>")


def test_the_system_message_goes_before_dialogues_without_one(tmp_path: Path) -> None:
    chat_format = build_format(tmp_path, CHAT_TEMPLATE, "<|im_end|>", "Be brief.")
    system, question = Message("system", "Be brief."), Message("user", "Hi")
    own = Message("system", "Be long.")

    assert chat_format.messages_of("Hi") == (system, question)
    assert chat_format.messages_of([question]) == (system, question)
    assert chat_format.messages_of([own, question]) == (own, question)


def test_without_a_system_message_none_is_added(formats: dict[str, ChatFormat]) -> None:
    assert formats["chatml"].messages_of("Hi") == (Message("user", "Hi"),)


def test_a_base_that_takes_no_system_message_says_so(tmp_path: Path) -> None:
    chat_format = build_format(tmp_path, GEMMA, "</s>", "Be brief.")

    with pytest.raises(DataError, match="System role not supported"):
        chat_format.prompt_tokens(chat_format.messages_of("Hi"))


def test_a_given_template_replaces_the_folders(tmp_path: Path) -> None:
    build_format(tmp_path, GEMMA, "<|im_end|>")
    chat_format = ChatFormat.from_folder(tmp_path, source=CHAT_TEMPLATE)

    assert chat_format.template.source == CHAT_TEMPLATE


def test_a_template_that_rewrites_the_past_is_refused(tmp_path: Path) -> None:
    chat_format = build_format(tmp_path, FORGETFUL, "<|im_end|>")

    with pytest.raises(DataError, match="prefix") as refused:
        chat_format.supervised(DIALOGUE)

    assert refused.value.hint


def test_a_template_without_a_stop_token_is_refused(tmp_path: Path) -> None:
    chat_format = build_format(tmp_path, ENDLESS, "</s>")

    with pytest.raises(DataError, match="stop token") as refused:
        chat_format.supervised(DIALOGUE)

    assert "another template" in refused.value.hint


def test_a_stop_token_inside_of_an_answer_is_refused(formats: dict[str, ChatFormat]) -> None:
    messages = [Message("user", "Hi"), Message("assistant", "One<|im_end|>two")]

    with pytest.raises(DataError, match="inside the answer"):
        formats["chatml"].supervised(messages)


@pytest.mark.parametrize("messages", [(), DIALOGUE[:1], DIALOGUE[:3]])
def test_a_dialogue_ends_in_an_answer(
    formats: dict[str, ChatFormat], messages: tuple[Message, ...]
) -> None:
    with pytest.raises(DataError, match="answer"):
        formats["chatml"].supervised(messages)
