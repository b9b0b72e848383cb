from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.engine.answer import Answer, longest_overlap
from trimtab.engine.sampling.drawn import Drawn
from trimtab.inference import Chunk, GenerateRequest, Sampling, Usage
from trimtab.text.tokenizer import Tokenizer

TEXT = 'The answer is {"intent": "bug"}, 你好 🙂. The end.'
END = 2


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Tokenizer:
    return Tokenizer(base)


def grow(tokenizer: Tokenizer, tokens: list[int], sampling: Sampling) -> list[Chunk]:
    answer = Answer(GenerateRequest("v", (5, 6, 7), sampling, "1"), tokenizer, (END,), cached=2)
    chunks = []
    for token in tokens:
        chunks.append(answer.push(Drawn(token, -0.5)))
        if answer.finished:
            break
    return chunks


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_each_token_makes_a_chunk_and_only_the_last_says_why(tokenizer: Tokenizer) -> None:
    tokens = [*tokenizer.encode(TEXT), END]
    chunks = grow(tokenizer, tokens, Sampling(max_tokens=200))
    assert text_of(chunks) == TEXT
    assert [chunk.tokens for chunk in chunks] == [(token,) for token in tokens]
    assert {chunk.finish_reason for chunk in chunks[:-1]} == {None}
    assert chunks[-1].finish_reason == "stop"
    assert chunks[-1].usage == Usage(prompt=3, completion=len(tokens), cached=2)


def test_the_length_ends_it_even_inside_a_character(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("🙂")[:-1]
    chunks = grow(tokenizer, tokens, Sampling(max_tokens=len(tokens)))
    assert chunks[-1].finish_reason == "length"
    assert text_of(chunks) == tokenizer.decode(tokens)


@given(
    cuts=st.lists(
        st.tuples(st.integers(0, len(TEXT) - 1), st.integers(1, 8)), min_size=1, max_size=3
    )
)
def test_the_text_ends_before_the_stop_string_that_is_whole_first(
    tokenizer: Tokenizer, cuts: list[tuple[int, int]]
) -> None:
    stops = tuple(TEXT[at : at + size] for at, size in cuts)
    tokens = tokenizer.encode(TEXT)
    chunks = grow(tokenizer, tokens, Sampling(max_tokens=200, stop=stops))
    assert chunks[-1].finish_reason == "stop"
    seen = tokenizer.decode(tokens[: len(chunks)])
    assert text_of(chunks) == seen[: min(seen.index(stop) for stop in stops if stop in seen)]
    before = tokenizer.decode(tokens[: len(chunks) - 1])
    assert not any(stop in before for stop in stops)


def test_text_that_only_began_like_a_stop_string_is_given(tokenizer: Tokenizer) -> None:
    sampling = Sampling(max_tokens=200, stop=("The end of it", "🙂🙂"))
    chunks = grow(tokenizer, [*tokenizer.encode(TEXT), END], sampling)
    assert text_of(chunks) == TEXT


def test_a_cancelled_answer_counts_what_it_has(tokenizer: Tokenizer) -> None:
    answer = Answer(GenerateRequest("v", (5,), Sampling(), "1"), tokenizer, (END,))
    answer.push(Drawn(9, -1.0))
    last = answer.cancel()
    assert answer.finished
    assert last == Chunk("", (), (), "cancelled", Usage(1, 1, 0))


@pytest.mark.parametrize(
    ("text", "stops", "overlap"),
    [("abc", (), 0), ("abc", ("cd",), 1), ("abab", ("abac", "b!"), 2), ("abc", ("abc",), 0)],
)
def test_the_longest_overlap(text: str, stops: tuple[str, ...], overlap: int) -> None:
    assert longest_overlap(text, stops) == overlap
