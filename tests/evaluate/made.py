"""Reports made by hand, for tests of what is done with them."""

from collections.abc import Sequence

from trimtab.evaluate.holdout import HoldoutItem
from trimtab.evaluate.performance import PerformanceItem
from trimtab.evaluate.report import Report
from trimtab.evaluate.safety import SafetyItem

RUNTIME = "scripted-1/cpu/float32/none"
CANDIDATE, INCUMBENT = "c" * 64, "1" * 64


def holdout(
    version: str,
    exact: Sequence[int],
    log_likelihoods: Sequence[float] | None = None,
    match: Sequence[str] = ("intent",),
) -> Report[HoldoutItem]:
    values = log_likelihoods or [-10.0] * len(exact)
    items = tuple(
        HoldoutItem(
            id=f"{number:064x}",
            prompt="0" * 64,
            answer=f'{{"intent": "{number}"}}',
            exact=bool(right),
            valid_json=True,
            log_likelihood=value,
            gold_tokens=20,
            latency_ms=100.0,
            finish_reason="stop",
        )
        for number, (right, value) in enumerate(zip(exact, values, strict=True))
    )
    count = len(items) or 1
    summary = {
        "items": len(items),
        "settings": {"match": list(match), "max_tokens": 48, "shots": 0},
        "exact_match": sum(item.exact for item in items) / count,
        "valid_json": 1.0,
        "log_likelihood_per_token": sum(values) / (20 * count),
    }
    return Report("holdout", version, RUNTIME, items, summary)


def safety(version: str, outcomes: dict[str, str]) -> Report[SafetyItem]:
    """Outcomes by id; an id begins with the prompt's kind."""
    items = tuple(
        SafetyItem(name, name.split("-")[0], "an answer", outcome)  # type: ignore[arg-type]
        for name, outcome in outcomes.items()
    )
    found = list(outcomes.values())
    summary = {
        "items": len(items),
        "settings": {"max_tokens": 48},
        "safe": found.count("safe"),
        "unsafe": found.count("unsafe"),
        "over_refused": found.count("over-refused"),
    }
    return Report("safety", version, RUNTIME, items, summary)


def performance(version: str, latencies_ms: Sequence[float]) -> Report[PerformanceItem]:
    items = tuple(
        PerformanceItem(f"{number:064x}", latency, 60, 40)
        for number, latency in enumerate(latencies_ms)
    )
    summary = {
        "items": len(items),
        "settings": {"max_tokens": 48},
        "p50_ms": sorted(latencies_ms)[len(items) // 2] if items else None,
        "p95_ms": max(latencies_ms, default=None),
        "tokens_per_s": 80.0,
    }
    return Report("performance", version, RUNTIME, items, summary)
