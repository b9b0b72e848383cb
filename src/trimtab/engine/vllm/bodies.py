"""What a vLLM server is asked: the bodies of its completions, as vLLM 0.32 reads them
(`vllm/entrypoints/openai/completion/protocol.py`). `model` is the name that the server knows a
version by; `priority` says whether it takes one.
"""

import json
from collections.abc import Sequence
from typing import Any

from trimtab.inference import GenerateRequest, ScoreRequest

PRIORITIES = {"interactive": 0, "batch": 1, "shadow": 2}
"""vLLM serves the lower number first."""


def generation(
    model: str, request: GenerateRequest, stop_tokens: Sequence[int], priority: bool
) -> dict[str, Any]:
    """A completion that is streamed; `stop_tokens` are the version's own."""
    sampling = request.sampling
    body = _body(model, request, priority) | {
        "prompt": list(request.prompt),
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop_token_ids": [*stop_tokens, *sampling.stop_tokens],
        # What ends an answer is the version's, not the model's generation_config.
        "ignore_eos": True,
        "logprobs": sampling.top_logprobs,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.schema is not None:
        body["structured_outputs"] = {"json": json.loads(sampling.schema)}
    return body


def scoring(
    model: str, request: ScoreRequest, asked: Sequence[int], priority: bool
) -> dict[str, Any]:
    """The prompt with each of the completions that `asked` counts, all of it to be scored."""
    return _body(model, request, priority) | {
        "prompt": [[*request.prompt, *request.completions[i]] for i in asked],
        "prompt_logprobs": 0,
        # None would not be an answer.
        "max_tokens": 1,
    }


def _body(model: str, request: GenerateRequest | ScoreRequest, priority: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model}
    if priority:
        body["priority"] = PRIORITIES[request.priority]
    return body
