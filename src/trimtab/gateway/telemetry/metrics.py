"""Counters and histograms in Prometheus' text format, version 0.0.4.

Names follow OpenTelemetry's conventions for generative AI where they have one (gen_ai.*, written
with underscores and the unit, as their Prometheus form asks;
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/). The figures are this process's
own, since it started; `gateway` tells the processes of one address apart.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from trimtab.gateway.visit import Visit

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PROVIDER = "trimtab"
# The conventions' own bounds: gen_ai.client.token.usage in tokens, and
# gen_ai.server.request.duration and .time_to_first_token in seconds.
TOKENS = tuple(4.0**power for power in range(14))
DURATIONS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

# By route; they have no word for a score.
OPERATIONS = {
    "generate": "chat",
    "stream": "chat",
    "chat.completions": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "score": "score",
}

Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Histogram:
    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def add(self, value: float) -> None:
        if not self.counts:
            self.counts = [0] * (len(self.bounds) + 1)
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Metrics:
    """One for a gateway. What it counts are requests that ended."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._counters: defaultdict[str, defaultdict[Labels, int]] = defaultdict(
            lambda: defaultdict(int)
        )
        self._tokens: dict[Labels, Histogram] = {}
        self._durations: dict[Labels, Histogram] = {}
        self._first: dict[Labels, Histogram] = {}

    def note(self, visit: Visit, status: int, error_code: str | None) -> None:
        """A request has ended."""
        who = (("route", visit.route), ("tier", visit.tier or ""), ("model", _model(visit)))
        ended = (*who, ("status", str(status)), ("code", error_code or ""))
        self._counters["trimtab_requests_total"][ended] += 1
        self._counters["trimtab_attempts_total"][who] += visit.attempts
        self._counters["trimtab_cost_nano_dollars_total"][who] += visit.cost_nano
        theirs = (
            *who,
            ("gen_ai_operation_name", operation_of(visit.route)),
            ("gen_ai_provider_name", PROVIDER),
        )
        usage = visit.usage
        for kind, tokens in (("input", usage.prompt), ("output", usage.completion)):
            if tokens:
                labels = (*theirs, ("gen_ai_token_type", kind))
                self._histogram(self._tokens, labels, TOKENS).add(tokens)
        if status < 400:
            self._histogram(self._durations, theirs, DURATIONS).add(visit.latency_ms / 1000)
            if visit.ttft_ms is not None:
                self._histogram(self._first, theirs, FIRST).add(visit.ttft_ms / 1000)

    def note_refused(self, route: str, status: int, code: str) -> None:
        """A request ended before it was known who would answer."""
        labels = (("route", route), ("tier", ""), ("model", ""))
        ended = (*labels, ("status", str(status)), ("code", code))
        self._counters["trimtab_requests_total"][ended] += 1

    def note_unlogged(self) -> None:
        """One of those was left out of the request log."""
        self._counters["trimtab_refusals_unlogged_total"][()] += 1

    def note_refusal(self, *, dry_run: bool) -> None:
        """A rate limit refused a request, or would have."""
        labels = (("dry_run", str(dry_run).lower()),)
        self._counters["trimtab_rate_limited_total"][labels] += 1

    def note_line(self, outcome: str) -> None:
        """A line of a batch was answered, has failed for good, or waits for another try."""
        self._counters["trimtab_batch_lines_total"][(("outcome", outcome),)] += 1

    def text(self, gauges: Mapping[str, Iterable[tuple[Labels, int]]]) -> str:
        """Everything, and gauges as they stand now."""
        lines: list[str] = []
        for name, series in sorted(self._counters.items()):
            lines += [f"# HELP {name} {HELP[name]}", f"# TYPE {name} counter"]
            lines += [self._line(name, labels, count) for labels, count in sorted(series.items())]
        for name, found in (
            ("gen_ai_client_token_usage", self._tokens),
            ("gen_ai_server_request_duration_seconds", self._durations),
            ("gen_ai_server_time_to_first_token_seconds", self._first),
        ):
            lines += [f"# HELP {name} {HELP[name]}", f"# TYPE {name} histogram"]
            for labels, histogram in sorted(found.items()):
                lines += self._histogram_lines(name, labels, histogram)
        for name, values in sorted(gauges.items()):
            lines += [f"# HELP {name} {HELP[name]}", f"# TYPE {name} gauge"]
            lines += [self._line(name, labels, value) for labels, value in values]
        return "\n".join(lines) + "\n"

    def _histogram(
        self, found: dict[Labels, Histogram], labels: Labels, bounds: tuple[float, ...]
    ) -> Histogram:
        if labels not in found:
            found[labels] = Histogram(bounds)
        return found[labels]

    def _histogram_lines(self, name: str, labels: Labels, histogram: Histogram) -> list[str]:
        lines, below = [], 0
        for bound, count in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
            below += count
            lines.append(self._line(f"{name}_bucket", (*labels, ("le", str(bound))), below))
        lines.append(self._line(f"{name}_sum", labels, round(histogram.total, 9)))
        lines.append(self._line(f"{name}_count", labels, below))
        return lines

    def _line(self, name: str, labels: Labels, value: float) -> str:
        shown = ",".join(
            f'{key}="{_escaped(text)}"' for key, text in (("gateway", self._gateway), *labels)
        )
        return f"{name}{{{shown}}} {value}"


HELP = {
    "trimtab_requests_total": "Requests that ended, by status.",
    "trimtab_attempts_total": "How often an engine was asked.",
    "trimtab_cost_nano_dollars_total": "What was settled, in nano-dollars.",
    "trimtab_rate_limited_total": "Requests above a rate limit, refused or (dry run) told.",
    "trimtab_refusals_unlogged_total": "Refused requests beyond what is logged of them.",
    "trimtab_batch_lines_total": "Tries of lines of batches: answered, or why not.",
    "trimtab_batches": "Batches of the whole home, by status.",
    "trimtab_dead_letters": "Dead letters of the whole home.",
    "trimtab_breaker_open": "1 where a breaker keeps requests from a tier's version.",
    "trimtab_requests_in_flight": "Requests whose price is held.",
    "gen_ai_client_token_usage": "Tokens of a request that were paid for.",
    "gen_ai_server_request_duration_seconds": "Admission to last byte, of answered requests.",
    "gen_ai_server_time_to_first_token_seconds": "Admission to first token.",
}


def operation_of(route: str) -> str:
    """What a request asks for, as the conventions name it."""
    return OPERATIONS[route.removeprefix("batch.")]


def _model(visit: Visit) -> str:
    """A deployment's name or a hash; what nobody knows is no label, since anybody can invent it."""
    served = visit.asked
    if served is None:
        return ""
    return served.deployment or served.hash[:12]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
