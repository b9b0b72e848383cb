import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import build_base
from trimtab.errors import DataError
from trimtab.text.tokenizer import Detokenizer, Tokenizer, shared


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("base"), layers=1)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder)


def test_special_tokens_are_parsed_and_none_are_added(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|im_start|>user\nhello<|im_end|>")
    assert ids[0] == tokenizer.id_of("<|im_start|>") == 1
    assert ids[-1] == tokenizer.id_of("<|im_end|>") == 2
    assert not {1, 2} & set(tokenizer.encode("hello"))


def test_special_tokens_are_left_out_of_the_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("hello<|im_end|>")
    assert tokenizer.decode(ids) == "hello"
    assert tokenizer.decode(ids, keep_special=True) == "hello<|im_end|>"


def test_one_is_shared_by_all_that_hold_it_while_its_files_are_the_same(tmp_path: Path) -> None:
    folder = build_base(tmp_path / "base", layers=1)
    (tmp_path / "other name").symlink_to(folder)
    one = shared(folder)
    assert shared(tmp_path / "other name") is one
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    other = shared(folder)
    assert (one.eos_token, other.eos_token) == ("<|im_end|>", "<|endoftext|>")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        shared(folder)


def test_named_tokens(tokenizer: Tokenizer, folder: Path, tmp_path: Path) -> None:
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.id_of("no such token") is None
    assert tokenizer.size == 400
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    config = {"eos_token": {"content": "<|endoftext|>", "lstrip": False}, "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    other = Tokenizer(tmp_path)
    assert (other.eos_token, other.bos_token, other.pad_token) == ("<|endoftext|>", None, None)


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe", b"{}", b"[]"])
def test_a_bad_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer\.json") as caught:
        Tokenizer(tmp_path)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]"])
def test_a_bad_config_is_named(folder: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer_config\.json"):
        Tokenizer(tmp_path)


@given(text=st.text())
def test_text_survives_the_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text), keep_special=True) == text


@given(
    ids=st.lists(st.integers(0, 399), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=10),
)
def test_pieces_equal_the_whole_for_any_ids(
    tokenizer: Tokenizer, ids: list[int], cuts: list[int]
) -> None:
    check_pieces(tokenizer, ids, cuts)


@given(text=st.text(), cuts=st.lists(st.integers(0, 40), max_size=10))
def test_pieces_equal_the_whole_for_any_text(
    tokenizer: Tokenizer, text: str, cuts: list[int]
) -> None:
    check_pieces(tokenizer, tokenizer.encode(text), cuts)


def check_pieces(tokenizer: Tokenizer, ids: list[int], cuts: list[int]) -> None:
    borders = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(ids[start:end]) for start, end in pairwise(borders)]
    assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(ids)


def test_a_split_character_waits_for_its_last_byte(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    ids = tokenizer.encode("a🙃b")
    assert len(ids) > 3
    pieces = [detokenizer.push([token]) for token in ids]
    assert [piece for piece in pieces if piece] == ["a", "🙃", "b"]


def test_text_is_given_at_once_when_it_is_certain(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    for token in tokenizer.encode("plain words"):
        assert detokenizer.push([token]) == tokenizer.decode([token])
    assert detokenizer.flush() == ""


@given(text=st.text("ab é你🙂\n<>", max_size=12))
def test_the_bytes_of_tokens_are_those_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert b"".join(map(tokenizer.bytes_of, ids)) == text.encode()
    assert tokenizer.bytes_of(tokenizer.size) == b""
    assert tokenizer.bytes_of(2) == b"<|im_end|>"


@pytest.fixture(scope="module")
def falling_back(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """As SentencePiece makes them: words with a mark for the space, bytes for what has no word."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, normalizers

    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a"]
    inner = Inner(
        models.BPE(
            {word: id for id, word in enumerate(words)},
            [("▁", "a")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    folder = tmp_path_factory.mktemp("falling back")
    inner.save(str(folder / "tokenizer.json"))
    return Tokenizer(folder)


@given(text=st.text("ab é你🙂\n", max_size=12))
def test_bytes_that_stand_for_characters_come_whole(falling_back: Tokenizer, text: str) -> None:
    """A character over four tokens comes with its last one, and nothing before it is half of it."""
    ids = falling_back.encode(text)
    stream = Detokenizer(falling_back)
    pieces = [stream.push([token]) for token in ids]
    assert "".join(pieces) + stream.flush() == text
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
    assert b"".join(map(falling_back.bytes_of, ids)) == text.encode()
