"""OpenAI's own client against the compatible routes, streams and errors included."""

import time
from collections.abc import Iterator
from itertools import count

import httpx
import openai
import pytest
from openai import OpenAI

from tests.gateway.echo import Echo
from tests.gateway.world import PRICE, PROMPT, World, until
from trimtab.gateway import tables
from trimtab.gateway.tiers import policies
from trimtab.inference import GenerateRequest
from trimtab.store.rows import insert_or_update

USER = {"role": "user", "content": PROMPT}


@pytest.fixture
def theirs(world: World, client: httpx.Client) -> Iterator[OpenAI]:
    made = OpenAI(api_key=world.key.key, base_url=f"{client.base_url}/v1", max_retries=0)
    yield made
    made.close()


def asked(echo: Echo) -> GenerateRequest:
    request = echo.asked[-1]
    assert isinstance(request, GenerateRequest)
    return request


def test_a_chat_is_answered_and_says_who_answered_at_what_cost(
    world: World, theirs: OpenAI, echo: Echo
) -> None:
    answer = theirs.chat.completions.create(model="desk", messages=[USER], user="u-1")  # type: ignore[list-item]
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "yes " * 5)
    assert (choice.finish_reason, answer.object, answer.model) == (
        "stop",
        "chat.completion",
        "desk",
    )
    assert answer.usage is not None
    assert answer.usage.total_tokens == world.prompt_tokens + 5
    assert answer.system_fingerprint == world.adapter.hash
    told = answer.model_extra["trimtab"]  # type: ignore[index]
    assert (told["tier"], told["degraded"], told["user_id"]) == ("adapter", False, "u-1")
    [logged] = world.log()
    assert (logged.id, logged.route, logged.user_id) == (answer.id, "chat.completions", "u-1")
    assert round(told["cost_usd"] * 1e9) == logged.cost_nano == PRICE.of(world.prompt_tokens, 5)
    assert asked(echo).sampling.temperature == 1.0


def test_sampling_and_parts_reach_the_engine(theirs: OpenAI, echo: Echo) -> None:
    theirs.chat.completions.create(model="desk", messages=[USER])  # type: ignore[list-item]
    plain = asked(echo).prompt
    parts = [{"type": "text", "text": PROMPT[:5]}, {"type": "text", "text": PROMPT[5:]}]
    answer = theirs.chat.completions.create(
        model="desk",
        messages=[{"role": "user", "content": parts}],  # type: ignore[list-item]
        max_completion_tokens=3,
        temperature=0.5,
        top_p=0.9,
        seed=7,
        stop="\n",
    )
    assert asked(echo).prompt == plain
    got = asked(echo).sampling
    assert (got.max_tokens, got.temperature, got.top_p, got.seed) == (3, 0.5, 0.9, 7)
    assert got.stop == ("\n",)
    assert answer.choices[0].finish_reason == "length"


def test_a_chat_comes_in_pieces(world: World, theirs: OpenAI) -> None:
    pieces = list(
        theirs.chat.completions.create(
            model="desk",
            messages=[USER],  # type: ignore[list-item]
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    deltas = [piece.choices[0].delta for piece in pieces if piece.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == "yes " * 5
    assert [p.choices[0].finish_reason for p in pieces if p.choices][-2:] == [None, "stop"]
    last = pieces[-1]
    assert (last.choices, last.usage is not None) == ([], True)
    assert last.usage is not None
    assert last.usage.completion_tokens == 5
    assert len({piece.id for piece in pieces}) == 1
    assert world.account().spent_nano == PRICE.of(world.prompt_tokens, 5)


def test_several_answers_come_in_pieces_each_under_its_index(
    world: World, theirs: OpenAI, echo: Echo
) -> None:
    pieces = list(
        theirs.chat.completions.create(
            model="desk",
            messages=[USER],  # type: ignore[list-item]
            n=3,
            seed=4,
            max_tokens=4,
            logprobs=True,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    choices = [choice for piece in pieces for choice in piece.choices]
    for index in range(3):
        first, *others = [choice for choice in choices if choice.index == index]
        assert first.delta.role == "assistant"
        assert not any(choice.delta.role for choice in others)
        assert "".join(c.delta.content or "" for c in (first, *others)) == "yes " * 4
        assert [choice.finish_reason for choice in others][-2:] == [None, "length"]
        assert others[-1].logprobs is not None
        assert len(others[-1].logprobs.content or ()) == 4
    # They come side by side, and their end is told once all have ended.
    assert [choice.index for choice in choices[:3]] == [0, 1, 2]
    assert [choice.index for choice in choices[-3:]] == [0, 1, 2]
    usage = pieces[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (world.prompt_tokens, 12)
    assert len({piece.id for piece in pieces}) == 1
    assert sorted(one.sampling.seed or 0 for one in echo.asked[-3:]) == [4, 5, 6]  # type: ignore[union-attr]
    assert world.account().spent_nano == PRICE.of(world.prompt_tokens, 12)


def test_several_texts_come_in_pieces_each_under_its_index(theirs: OpenAI) -> None:
    pieces = list(theirs.completions.create(model="desk", prompt="Once", n=2, stream=True))
    for index in range(2):
        told = [c for piece in pieces for c in piece.choices if c.index == index]
        assert "".join(choice.text for choice in told) == "yes " * 5
        assert told[-1].finish_reason == "stop"
    last = pieces[-1].model_extra
    assert last is not None
    assert last["trimtab"]["tier"] == "adapter"


def test_several_answers_are_paid_for_before_they_stream(world: World, theirs: OpenAI) -> None:
    """A budget for six tokens gives each of two answers three."""
    poor = world.new_key(PRICE.of(world.prompt_tokens, 6))
    pieces = list(
        theirs.with_options(api_key=poor.key).chat.completions.create(
            model="desk",
            messages=[USER],  # type: ignore[list-item]
            n=2,
            max_tokens=4,
            stream=True,
        )
    )
    ends = [c.finish_reason for piece in pieces for c in piece.choices if c.finish_reason]
    assert ends == ["length"] * 2
    assert world.account(poor).spent_nano == PRICE.of(world.prompt_tokens, 6)


def test_a_client_that_leaves_ends_all_of_several_answers(
    world: World, theirs: OpenAI, echo: Echo
) -> None:
    echo.words, echo.pause_s = 200, 0.01
    with theirs.chat.completions.create(
        model="desk",
        messages=[USER],  # type: ignore[list-item]
        n=4,
        max_tokens=200,
        stream=True,
    ) as pieces:
        next(iter(pieces))
        assert echo.running == 4
    until(lambda: len(world.log()) == 1)
    assert (echo.running, world.account().held_nano) == (0, 0)


def test_a_text_is_continued_without_a_template(world: World, theirs: OpenAI, echo: Echo) -> None:
    answer = theirs.completions.create(model="desk", prompt="Once", max_tokens=2)
    assert (answer.object, answer.choices[0].text) == ("text_completion", "yes " * 2)
    assert answer.choices[0].finish_reason == "length"
    assert len(asked(echo).prompt) < world.prompt_tokens
    pieces = list(theirs.completions.create(model="desk", prompt=["Once"], stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == "yes " * 5


def test_models_are_listed_and_found(theirs: OpenAI) -> None:
    assert [model.id for model in theirs.models.list()] == ["desk"]
    found = theirs.models.retrieve("desk")
    assert (found.object, found.owned_by) == ("model", "support-desk")
    with pytest.raises(openai.NotFoundError):
        theirs.models.retrieve("nobody")


def test_their_errors_are_what_their_client_expects(world: World, theirs: OpenAI) -> None:
    chat = theirs.chat.completions
    with pytest.raises(openai.NotFoundError) as missing:
        chat.create(model="nobody", messages=[USER])  # type: ignore[list-item]
    assert (missing.value.code, missing.value.type) == ("model_not_found", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as unfit:
        chat.create(model="desk", messages=[USER], temperature=3)  # type: ignore[list-item]
    assert (unfit.value.param, unfit.value.code) == ("temperature", "invalid_request")
    with pytest.raises(openai.BadRequestError) as more:
        chat.create(model="desk", messages=[USER], n=9)  # type: ignore[list-item]
    assert more.value.param == "n"
    with pytest.raises(openai.AuthenticationError):
        theirs.with_options(api_key="tt_wrong").chat.completions.create(
            model="desk",
            messages=[USER],  # type: ignore[list-item]
        )
    poor = world.new_key(1)
    with pytest.raises(openai.APIStatusError) as broke:
        theirs.with_options(api_key=poor.key).chat.completions.create(
            model="desk",
            messages=[USER],  # type: ignore[list-item]
        )
    assert (broke.value.status_code, broke.value.code) == (402, "budget_exceeded")


def test_an_engine_that_dies_in_a_stream_raises_in_their_client(theirs: OpenAI, echo: Echo) -> None:
    echo.die_after = 2
    stream = theirs.chat.completions.create(
        model="desk",
        messages=[USER],  # type: ignore[list-item]
        stream=True,
    )
    seen = []
    with pytest.raises(openai.APIError, match="cannot be reached") as broken:
        seen += list(stream)
    assert broken.value.code == "engine_unavailable"


def test_the_safe_template_speaks_their_language_too(
    world: World, theirs: OpenAI, echo: Echo
) -> None:
    row = {"deployment": "desk", "safe_template": "Later.", "deadline_s": 9.0}
    with world.database.transaction() as connection:
        insert_or_update(connection, tables.policies, row, key=["deployment"])
        assert policies.list(connection)["desk"].safe_template == "Later."
    echo.die_after = 0
    answer = theirs.chat.completions.create(model="desk", messages=[USER])  # type: ignore[list-item]
    assert answer.choices[0].message.content == "Later."
    assert answer.model_extra["trimtab"]["tier"] == "safe_template"  # type: ignore[index]
    assert answer.usage is not None
    assert answer.usage.total_tokens == 0


def test_a_whole_answer_is_replayed(
    world: World, theirs: OpenAI, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However late it is told: `created` is when the first was.
    monkeypatch.setattr(time, "time", count(1_800_000_000.0).__next__)
    named = {"Idempotency-Key": "a"}
    first, again = (
        theirs.chat.completions.create(model="desk", messages=[USER], extra_headers=named)  # type: ignore[list-item]
        for _ in range(2)
    )
    assert first == again
    assert first.created >= 1_800_000_000
    assert len(echo.asked) == 1
    with pytest.raises(openai.BadRequestError, match="whole answers"):
        theirs.chat.completions.create(
            model="desk",
            messages=[USER],  # type: ignore[list-item]
            stream=True,
            extra_headers=named,
        )


def test_several_answers_are_drawn_and_the_prompt_is_paid_once(
    world: World, theirs: OpenAI, echo: Echo
) -> None:
    answer = theirs.chat.completions.create(
        model="desk",
        messages=[USER],  # type: ignore[list-item]
        n=3,
        seed=7,
        max_tokens=4,
        logprobs=True,
        top_logprobs=2,
        frequency_penalty=0.5,
        presence_penalty=-1,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "ticket", "strict": True, "schema": {"type": "object"}},
        },
        extra_body={"min_p": 0.1, "repetition_penalty": 1.2, "top_k": 9, "deterministic": True},
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice in answer.choices:
        assert (choice.message.content, choice.finish_reason) == ("yes " * 4, "length")
        assert choice.logprobs is not None
        assert [one.logprob for one in choice.logprobs.content or ()] == [-0.5] * 4
    requests = [one for one in echo.asked if isinstance(one, GenerateRequest)]
    assert sorted(one.sampling.seed or 0 for one in requests) == [7, 8, 9]
    got = requests[0].sampling
    assert (got.max_tokens, got.top_logprobs, got.schema) == (4, 2, '{"type": "object"}')
    assert (got.frequency_penalty, got.presence_penalty, got.min_p) == (0.5, -1.0, 0.1)
    assert (got.repetition_penalty, got.top_k, got.deterministic) == (1.2, 9, True)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (
        world.prompt_tokens,
        12,
    )
    assert world.account().spent_nano == PRICE.of(world.prompt_tokens, 12)


def test_log_probabilities_come_with_the_end_of_a_stream(theirs: OpenAI) -> None:
    pieces = list(
        theirs.chat.completions.create(
            model="desk",
            messages=[USER],  # type: ignore[list-item]
            stream=True,
            logprobs=True,
        )
    )
    told = pieces[-1].choices[0].logprobs
    assert told is not None
    assert len(told.content or ()) == 5


def test_completions_tell_log_probabilities_in_their_own_form(theirs: OpenAI) -> None:
    answer = theirs.completions.create(model="desk", prompt="Once", max_tokens=3, logprobs=1)
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.token_logprobs == [-0.5] * 3
    assert told.text_offset == [0, *[len("".join((told.tokens or [])[:i])) for i in (1, 2)]]
