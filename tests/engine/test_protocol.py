from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab import errors
from trimtab.engine.wire import protocol
from trimtab.inference import (
    Capabilities,
    Chunk,
    GenerateRequest,
    Runtime,
    Sampling,
    Score,
    ScoreRequest,
    Usage,
    VersionFiles,
)

text = st.text(st.characters(exclude_categories=["Cs"]))
tokens = st.lists(st.integers(0, 2**31)).map(tuple)
logprobs = st.lists(st.floats(-1e6, 0)).map(tuple)
samplings = st.builds(
    Sampling,
    st.integers(0, 9999),
    st.floats(0, 2),
    st.floats(0, 1),
    st.integers(0, 99),
    st.none() | st.integers(0, 2**63),
    st.lists(text).map(tuple),
    st.floats(0, 1),
    st.floats(0.1, 2),
    st.floats(-2, 2),
    st.floats(-2, 2),
    tokens,
    st.integers(0, 20),
)
files = VersionFiles("v", Path("/base"), None, Path("/base"), (2,), merged=True)
calls = st.one_of(
    st.builds(protocol.Generate, text, st.builds(GenerateRequest, text, tokens, samplings, text)),
    st.builds(
        protocol.ScoreCompletions,
        text,
        st.builds(ScoreRequest, text, tokens, st.lists(tokens).map(tuple), text),
    ),
    st.builds(protocol.Load, text, st.just(files)),
    st.builds(protocol.Unload, text, text),
    st.builds(protocol.Describe, text),
    st.builds(protocol.Cancel, text),
)
usages = st.none() | st.builds(Usage, st.integers(0), st.integers(0), st.integers(0))
reasons = st.none() | st.sampled_from(["stop", "length", "cancelled"])
tops = st.lists(st.lists(st.tuples(st.integers(0, 2**31), st.floats(-1e6, 0))).map(tuple)).map(
    tuple
)
told = Capabilities(Runtime("trimtab", "0", "cpu", "float32"), 512, 16, {"lora": "mixed"})
replies = st.one_of(
    st.builds(
        protocol.Generated, text, st.builds(Chunk, text, tokens, logprobs, reasons, usages, tops)
    ),
    st.builds(protocol.Scored, text, st.lists(st.builds(Score, logprobs)).map(tuple)),
    st.builds(protocol.Described, text, st.just(told)),
    st.builds(protocol.Done, text),
    st.builds(protocol.Failed, text, text, text, text),
)


@given(call=calls)
def test_a_call_is_one_line_and_comes_back(call: protocol.Call) -> None:
    frame = protocol.encode_call(call)
    assert frame.index(b"\n") == len(frame) - 1
    assert protocol.decode_call(frame) == call


@given(reply=replies)
def test_a_reply_is_one_line_and_comes_back(reply: protocol.Reply) -> None:
    frame = protocol.encode_reply(reply)
    assert frame.index(b"\n") == len(frame) - 1
    assert protocol.decode_reply(frame) == reply


@given(told=st.lists(replies, max_size=4))
def test_replies_that_came_together_are_read_as_each_alone(told: list[protocol.Reply]) -> None:
    lines = [protocol.encode_reply(reply).rstrip(b"\n") for reply in told]
    assert list(protocol.decode_replies(lines)) == told
    heard = iter(protocol.decode_replies([*lines, b"noise"]))
    assert [next(heard) for _ in told] == told
    with pytest.raises(errors.RequestRefused):
        next(heard)


@pytest.mark.parametrize(
    ("frame", "where"),
    [
        (b"\xff\n", "JSON"),
        (b"[1]\n", "object"),
        (b'{"id": "1"}\n', "kind"),
        (b'{"id": "1", "kind": "explode"}\n', "kind"),
        (b'{"id": 1, "kind": "cancel"}\n', r"cancel\.id"),
        (b'{"id": "1", "kind": "unload"}\n', r"unload\.version"),
    ],
)
def test_what_is_wrong_with_a_frame_is_said_in_one_line(frame: bytes, where: str) -> None:
    with pytest.raises(errors.RequestRefused, match=where) as caught:
        protocol.decode_call(frame)
    assert "\n" not in caught.value.message


@given(frame=st.binary())
def test_noise_is_refused_and_never_crashes(frame: bytes) -> None:
    with pytest.raises(errors.RequestRefused):
        protocol.decode_call(frame)


@pytest.mark.parametrize(
    "kind", [errors.EngineOverloaded, errors.VersionNotLoaded, errors.IdentityError]
)
def test_an_error_crosses_with_its_class_and_hint(kind: type[errors.TrimtabError]) -> None:
    failed = protocol.Failed.of("7", kind("what", hint="do"))
    raised = failed.exception()
    assert type(raised) is kind
    assert (raised.message, raised.hint) == ("what", "do")


@pytest.mark.parametrize("name", ["NoSuchError", "__doc__", ""])
def test_an_unknown_error_is_an_engine_error(name: str) -> None:
    assert type(protocol.Failed("7", name, "what").exception()) is errors.EngineError


def test_an_overloaded_engine_s_word_on_when_to_come_back_arrives() -> None:
    overloaded = errors.EngineOverloaded("full", retry_s=7)
    failed = protocol.decode_reply(protocol.encode_reply(protocol.Failed.of("1", overloaded)))
    assert isinstance(failed, protocol.Failed)
    error = failed.exception()
    assert isinstance(error, errors.EngineOverloaded)
    assert (error.message, error.retry_s) == ("full", 7)
