"""The shadow: candidate and live version answer the same prompts, and nobody hears the candidate.

It asks what the gate did not: beside live work, does the candidate fail, is it too slow, does it
keep the format? A few prompts are under way at once, as they are when it is live. So an answer over
the target counts against the candidate where the live version's answer to the same prompt was not:
what slows both is the machine. How fast a version is alone is for the performance suite.

The prompts are its own, never those of an evaluation set; a gold answer only tells which fields a
valid answer has. Where no prompt was answered nothing was seen, and nothing seen is not passed.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trimtab.errors import DataError, EngineError
from trimtab.evaluate.asking import ask, at_once
from trimtab.evaluate.items import Item
from trimtab.evaluate.judge import exact_match, gold_fields, valid_json
from trimtab.inference import Engine
from trimtab.stats.binomial import at_least
from trimtab.text.chat import ChatFormat

ALPHA = 0.05
PROMPTS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Side:
    """A version, the engine that holds it, and how messages become its tokens."""

    engine: Engine
    version: str
    chat_format: ChatFormat


@dataclass(frozen=True, slots=True)
class Answer:
    """What one side made of one prompt; `error` is empty where it answered."""

    text: str
    valid: bool
    latency_ms: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class ShadowItem:
    """Both answers to one prompt, and whether they agree."""

    id: str
    live: Answer
    candidate: Answer
    agree: bool


@dataclass(frozen=True, slots=True)
class ShadowResult:
    """Counts are of prompts; `passed` with its one-line reason.

    `new_errors` and `slow` are those of the candidate where the live version had none, or was in
    time.
    """

    passed: bool
    reason: str
    prompts: int
    new_errors: int
    slow: int
    live_valid: int
    candidate_valid: int
    agreed: int
    items: tuple[ShadowItem, ...]

    def to_json(self) -> dict[str, Any]:
        """The counts, without the answers: what the evidence of a promotion keeps."""
        return {name: value for name, value in asdict(self).items() if name != "items"}


async def shadow(
    live: Side,
    candidate: Side,
    prompts: Sequence[Item],
    *,
    match: Sequence[str],
    max_tokens: int,
    p95_ms: float,
    evaluated: Collection[str] = (),
    on_item: Callable[[], None] | None = None,
) -> ShadowResult:
    """Ask both loaded versions every prompt, one after the other, taking turns at going first.

    It is passed when the candidate has no error where the live version has none, and exact tests
    of the pairs show neither more answers over `p95_ms` nor fewer valid ones. Raises DataError
    where a prompt is among the `evaluated` ids.
    """
    taken = sorted({prompt.id for prompt in prompts} & set(evaluated))
    if taken:
        raise DataError(
            f"shadow prompt {taken[0][:12]} is also an evaluation item",
            hint="split the shadow prompts off by prompt hash, as trimtab's data step does",
        )

    async def both(turn: tuple[int, Item]) -> ShadowItem:
        number, prompt = turn
        order = (live, candidate) if number % 2 == 0 else (candidate, live)
        answers = {side.version: await _answer(side, prompt, match, max_tokens) for side in order}
        one, other = answers[live.version], answers[candidate.version]
        agree = not (one.error or other.error) and exact_match(other.text, one.text, match)
        return ShadowItem(prompt.id, one, other, agree)

    turns = list(enumerate(prompts))
    return judge_shadow(await at_once(turns, both, PROMPTS_AT_ONCE, on_item), p95_ms)


def judge_shadow(items: Sequence[ShadowItem], p95_ms: float) -> ShadowResult:
    """The verdict on answers that were given; the same answers give the same one."""
    new_errors = sum(bool(item.candidate.error) and not item.live.error for item in items)
    answered = [item for item in items if not (item.live.error or item.candidate.error)]
    slow = sum(item.candidate.latency_ms > p95_ms >= item.live.latency_ms for item in answered)
    fast = sum(item.live.latency_ms > p95_ms >= item.candidate.latency_ms for item in answered)
    lost = sum(item.live.valid and not item.candidate.valid for item in answered)
    won = sum(item.candidate.valid and not item.live.valid for item in answered)
    if new_errors:
        reason = f"the candidate failed on {new_errors} prompts that the live version answered"
    elif not answered:
        reason = "no prompt was answered by both versions"
    elif at_least(slow, slow + fast, 0.5) <= ALPHA:
        reason = (
            f"{slow} of {len(answered)} answers took longer than {p95_ms:g} ms where the live"
            f" version's did not, and {fast} the other way round"
        )
    elif at_least(lost, lost + won, 0.5) <= ALPHA:
        reason = f"the format was lost on {lost} prompts and won on {won}"
    else:
        reason = ""
    return ShadowResult(
        passed=not reason,
        reason=reason or f"{len(answered)} prompts answered beside the live version",
        prompts=len(items),
        new_errors=new_errors,
        slow=slow,
        live_valid=sum(item.live.valid for item in items),
        candidate_valid=sum(item.candidate.valid for item in items),
        agreed=sum(item.agree for item in items),
        items=tuple(items),
    )


async def _answer(side: Side, prompt: Item, match: Sequence[str], max_tokens: int) -> Answer:
    """An engine's error is an answer too: the other side may not have it."""
    fields = frozenset(gold_fields(prompt.id, prompt.answer, match)) if match else None
    tokens = side.chat_format.prompt_tokens(side.chat_format.messages_of(prompt.messages))
    started = time.perf_counter()
    try:
        completion, latency_ms = await ask(side.engine, side.version, tokens, max_tokens, "shadow")
    except EngineError as error:
        return Answer("", False, (time.perf_counter() - started) * 1000, error.message)
    valid = bool(completion.text.strip()) if fields is None else valid_json(completion.text, fields)
    return Answer(completion.text, valid, latency_ms)
