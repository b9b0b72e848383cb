"""The holdout suite: does a version answer held-out items as their gold answers do?

Three measures an item: exact match and valid JSON of the greedy answer, and the log-likelihood of
the gold answer; a fourth where a rejected answer stands beside it: the margin between the two.
Knows nothing of other versions; the gate compares.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.canonical import content_hash
from trimtab.errors import RequestRefused
from trimtab.evaluate.asking import OnItem, ask, in_batches, refuse_silence, score_one
from trimtab.evaluate.items import Item, with_shots
from trimtab.evaluate.judge import exact_match, gold_fields, valid_json
from trimtab.evaluate.report import Report
from trimtab.inference import Engine, Message
from trimtab.stats.quantile import quantile
from trimtab.text.chat import ChatFormat


@dataclass(frozen=True, slots=True)
class HoldoutItem:
    """One answered item.

    `prompt` hashes the tokens that were sent. `log_likelihood` is the sum over the `gold_tokens`
    tokens of the gold answer, end of turn included, in nats. `latency_ms` was measured with other
    items in flight: the performance suite measures latency. `margin` is how much likelier the gold
    answer is than the rejected one, in nats; None where there is none. `error` says why the engine
    refused an item, which then counts as wrong and has no log-likelihood.
    """

    id: str
    prompt: str
    answer: str
    exact: bool
    valid_json: bool | None
    log_likelihood: float | None
    gold_tokens: int
    latency_ms: float
    finish_reason: str
    error: str = ""
    margin: float | None = None


async def run_holdout(
    engine: Engine,
    version: str,
    chat_format: ChatFormat,
    items: Sequence[Item],
    match: Sequence[str],
    max_tokens: int,
    shots: Sequence[Message] = (),
    on_item: OnItem | None = None,
) -> Report[HoldoutItem]:
    """Ask a loaded version every item.

    `match` names the JSON fields that must agree; empty means the whole text. `shots` are turns
    from `choose_shots`. An item that the engine refuses has failed and the others go on. Raises
    DataError before asking anything where a gold answer cannot be matched, and where every item is
    refused; and the engine's error where the engine itself fails.
    """
    fields = {
        item.id: frozenset(gold_fields(item.id, item.answer, match)) if match else None
        for item in items
    }

    async def work(item: Item) -> HoldoutItem:
        messages = chat_format.messages_of(with_shots(item.messages, shots))
        prompt = chat_format.prompt_tokens(messages)
        gold = _gold_tokens(chat_format, messages, item.answer)
        expected, hashed = fields[item.id], content_hash(list(prompt))
        try:
            completion, latency_ms = await ask(engine, version, prompt, max_tokens)
            score = await score_one(engine, version, prompt, gold)
            margin = None
            if item.rejected:
                worse = _gold_tokens(chat_format, messages, item.rejected)
                margin = score.total - (await score_one(engine, version, prompt, worse)).total
        except RequestRefused as error:
            return _refused(item.id, hashed, expected is not None, error)
        return HoldoutItem(
            id=item.id,
            prompt=hashed,
            answer=completion.text,
            exact=exact_match(completion.text, item.answer, match),
            valid_json=None if expected is None else valid_json(completion.text, expected),
            log_likelihood=score.total,
            gold_tokens=len(gold),
            latency_ms=latency_ms,
            finish_reason=completion.finish_reason,
            margin=margin,
        )

    answered = await in_batches(engine, items, work, on_item)
    refusals = [item.error for item in answered if item.error]
    refuse_silence("holdout", refusals, len(items))
    runtime = (await engine.capabilities()).runtime.name
    summary = _summary(answered, holdout_settings(items, match, max_tokens, shots))
    return Report(suite_name(shots), version, runtime, tuple(answered), summary)


def suite_name(shots: Sequence[Message]) -> str:
    """Reports with and without shots have different names, so that no gate pairs them."""
    count = _count(shots)
    return f"holdout-{count}-shots" if count else "holdout"


def holdout_settings(
    items: Sequence[Item], match: Sequence[str], max_tokens: int, shots: Sequence[Message] = ()
) -> dict[str, Any]:
    """What decides a report beside the version and the runtime.

    Reports of equal settings can be paired; one that is there already need not be made again.
    """
    turns = [[message.role, message.content] for message in shots]
    return {
        "match": list(match),
        "max_tokens": max_tokens,
        "shots": _count(shots),
        "asked": content_hash([sorted(item.id for item in items), turns]),
    }


def _count(shots: Sequence[Message]) -> int:
    return sum(message.role == "assistant" for message in shots)


def _refused(item: str, prompt: str, structured: bool, error: RequestRefused) -> HoldoutItem:
    return HoldoutItem(
        id=item,
        prompt=prompt,
        answer="",
        exact=False,
        valid_json=False if structured else None,
        log_likelihood=None,
        gold_tokens=0,
        latency_ms=0.0,
        finish_reason="refused",
        error=error.message,
    )


def _gold_tokens(
    chat_format: ChatFormat, messages: Sequence[Message], answer: str
) -> tuple[int, ...]:
    whole = chat_format.supervised([*messages, Message("assistant", answer)])
    return tuple(token for token, learnt in zip(whole.tokens, whole.mask, strict=True) if learnt)


def _summary(items: Sequence[HoldoutItem], settings: dict[str, Any]) -> dict[str, Any]:
    count, tokens = len(items), sum(item.gold_tokens for item in items)
    if not count:
        return {"items": 0, "settings": settings}
    latencies = [item.latency_ms for item in items if not item.error]
    valid = sum(bool(item.valid_json) for item in items)
    scored = sum(item.log_likelihood for item in items if item.log_likelihood is not None)
    margins = [item.margin for item in items if item.margin is not None]
    return {
        "items": count,
        "settings": settings,
        "refused": sum(bool(item.error) for item in items),
        "exact": sum(item.exact for item in items),
        "exact_match": sum(item.exact for item in items) / count,
        "valid_json": valid / count if settings["match"] else None,
        "log_likelihood": scored,
        "log_likelihood_per_token": scored / tokens,
        "gold_tokens": tokens,
        "margin": sum(margins) / len(margins) if margins else None,
        "prefers_gold": sum(m > 0 for m in margins) / len(margins) if margins else None,
        "cut_short": sum(item.finish_reason == "length" for item in items),
        "p50_ms": quantile(latencies, 0.5),
        "p95_ms": quantile(latencies, 0.95),
    }
