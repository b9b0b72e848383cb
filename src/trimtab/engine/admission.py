"""What a model can never do is refused before it waits for its turn."""

import math
from collections.abc import Sequence

from trimtab.errors import RequestRefused
from trimtab.inference import GenerateRequest, Sampling, ScoreRequest

MOST_TOP = 20
"""Alternatives to one token."""


def check_generate(request: GenerateRequest, context: int, vocabulary: int) -> None:
    """Raises RequestRefused and says why; `context` counts prompt and answer together."""
    _check_prompt(request.prompt, vocabulary)
    _check_sampling(request.sampling)
    _check_tokens(request.sampling.stop_tokens, vocabulary)
    _check_length(len(request.prompt) + request.sampling.max_tokens, context)


def check_score(request: ScoreRequest, context: int, vocabulary: int) -> None:
    """Raises RequestRefused and says why."""
    _check_prompt(request.prompt, vocabulary)
    for completion in request.completions:
        _check_tokens(completion, vocabulary)
        _check_length(len(request.prompt) + len(completion), context)


def _check_prompt(prompt: Sequence[int], vocabulary: int) -> None:
    if not prompt:
        raise RequestRefused("the prompt is empty", hint="send at least one token")
    _check_tokens(prompt, vocabulary)


def _check_tokens(tokens: Sequence[int], vocabulary: int) -> None:
    for token in tokens:
        if not 0 <= token < vocabulary:
            raise RequestRefused(
                f"token {token} is not in the vocabulary of {vocabulary}",
                hint="use the tokenizer of the version's base",
            )


def _check_length(length: int, context: int) -> None:
    if length > context:
        raise RequestRefused(
            f"prompt and answer are {length} tokens together, the model holds {context}",
            hint="shorten the prompt or lower max_tokens",
        )


def _check_sampling(sampling: Sampling) -> None:
    rules = {
        "max_tokens must be at least 1": sampling.max_tokens >= 1,
        "temperature must be 0 or more": 0 <= sampling.temperature < math.inf,
        "top_p must be over 0 and at most 1": 0 < sampling.top_p <= 1,
        "top_k must be 0 or more": sampling.top_k >= 0,
        "min_p must be at least 0 and at most 1": 0 <= sampling.min_p <= 1,
        "repetition_penalty must be over 0": 0 < sampling.repetition_penalty < math.inf,
        "presence_penalty must be finite": math.isfinite(sampling.presence_penalty),
        "frequency_penalty must be finite": math.isfinite(sampling.frequency_penalty),
        f"top_logprobs must be at least 0 and at most {MOST_TOP}": (
            0 <= sampling.top_logprobs <= MOST_TOP
        ),
        "a stop string must not be empty": all(sampling.stop),
        "an answer held to a schema ends where the schema does: leave out stop": (
            sampling.schema is None or not (sampling.stop or sampling.stop_tokens)
        ),
    }
    for rule, kept in rules.items():
        if not kept:
            raise RequestRefused(rule, hint="change the request: it can never work")
