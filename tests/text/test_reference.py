"""Token ids against transformers: what is trained and served here is what it would tokenise."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.tiny import build_base
from trimtab.inference import Message
from trimtab.text.chat import ChatFormat
from trimtab.text.tokenizer import Tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("base"), layers=1)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@given(text=TEXT)
def test_texts_have_the_same_ids(folder: Path, reference: Any, text: str) -> None:
    # Made anew: a tokenizer of ours must not depend on what it encoded before.
    assert Tokenizer(folder).encode(text) == reference.encode(text, add_special_tokens=False)


@given(turns=st.lists(TEXT, min_size=1, max_size=4), system=TEXT)
def test_dialogues_have_the_same_ids(
    folder: Path, reference: Any, turns: list[str], system: str
) -> None:
    chat = ChatFormat.from_folder(folder, system=system)
    roles = ("user", "assistant")
    messages = chat.messages_of([Message(roles[i % 2], text) for i, text in enumerate(turns)])
    plain = [{"role": message.role, "content": message.content} for message in messages]
    expected = reference.apply_chat_template(plain, add_generation_prompt=True, return_dict=False)
    assert list(chat.prompt_tokens(messages)) == expected


def test_an_answered_dialogue_has_the_same_ids(folder: Path, reference: Any) -> None:
    chat = ChatFormat.from_folder(folder, system="You are the support desk.")
    messages = [*chat.messages_of("Größe, please 🙂"), Message("assistant", '{"product":"app"}')]
    plain = [{"role": message.role, "content": message.content} for message in messages]
    expected = reference.apply_chat_template(plain, return_dict=False)
    assert list(chat.supervised(messages).tokens) == expected
