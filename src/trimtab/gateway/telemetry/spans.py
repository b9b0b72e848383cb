"""Spans of what was asked, by OpenTelemetry's conventions for generative AI
(https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/), for any collector that speaks
OTLP over HTTP.

One for each request, from admission to last byte (or to its refusal), under the id that its
`traceparent` header told. Of kind SERVER, since the caller's own span is the client's. Knows no
words of a prompt or an answer.

The only module that loads OpenTelemetry: import it where spans are wanted.
"""

import threading
import time
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

import trimtab
from trimtab.gateway.telemetry.metrics import OPERATIONS, PROVIDER, operation_of
from trimtab.gateway.telemetry.refusals import Refused
from trimtab.gateway.telemetry.tracing import Trace
from trimtab.gateway.visit import Visit

# How long the end of a gateway waits for its last spans to be taken.
CLOSE_S = 2.0


class _Ids(RandomIdGenerator):
    """The ids that a client was told already."""

    def __init__(self) -> None:
        self.trace: Trace | None = None

    def generate_span_id(self) -> int:
        assert self.trace is not None
        return int(self.trace.span_id, 16)

    def generate_trace_id(self) -> int:
        assert self.trace is not None
        return int(self.trace.trace_id, 16)


class Spans:
    """One for a gateway; `note` belongs to its event loop. A span that finds no room is lost, as
    is one that no collector takes: nobody waits for it."""

    def __init__(self, processor: SpanProcessor | None = None) -> None:
        """Through `processor`, or to the collector that the environment names."""
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "trimtab-gateway"}))
        self._ids = _Ids()
        self._provider = TracerProvider(
            resource=resource, shutdown_on_exit=False, id_generator=self._ids
        )
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("trimtab.gateway", trimtab.__version__)

    def note(self, visit: Visit, status: int, error_code: str | None) -> None:
        """A request has ended."""
        operation = operation_of(visit.route)
        # A name that nobody has here may be anything, and a span's name is to be one of few.
        name = f"{operation} {visit.model}" if visit.asked else operation
        start_ns = time.time_ns() - int(visit.elapsed_ms() * 1e6)
        attributes = _attributes(visit, operation, status, error_code)
        self._put(name, visit.trace, attributes, start_ns, visit.latency_ms, status, error_code)

    def note_refused(self, refused: Refused) -> None:
        """A request was refused this moment, before anything was known of it but its route."""
        entry = refused.entry
        operation = OPERATIONS.get(entry.route)
        attributes: dict[str, AttributeValue] = {
            "gen_ai.provider.name": PROVIDER,
            **({"gen_ai.operation.name": operation} if operation else {}),
            "error.type": entry.error_code or "",
            "http.response.status_code": entry.status,
            "trimtab.trace_id": entry.trace_id,
        }
        start_ns = time.time_ns() - int(entry.latency_ms * 1e6)
        status, code = entry.status, entry.error_code
        name = operation or entry.route
        self._put(name, refused.trace, attributes, start_ns, entry.latency_ms, status, code)

    def _put(
        self,
        name: str,
        trace: Trace,
        attributes: Mapping[str, AttributeValue],
        start_ns: int,
        latency_ms: float,
        status: int,
        error_code: str | None,
    ) -> None:
        self._ids.trace = trace
        span = self._tracer.start_span(
            name,
            context=_parent(trace),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=start_ns,
        )
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR, error_code))
        span.end(start_ns + int(latency_ms * 1e6))

    def close(self) -> None:
        """Send what waits, for CLOSE_S at most: a collector that is gone keeps nobody here."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(CLOSE_S)


def _parent(trace: Trace) -> Context:
    if trace.parent_id is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if trace.sampled else TraceFlags.DEFAULT)
    parent = SpanContext(int(trace.trace_id, 16), int(trace.parent_id, 16), True, flags)
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _attributes(
    visit: Visit, operation: str, status: int, error_code: str | None
) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue | None] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": visit.model,
        "gen_ai.response.id": visit.id,
        "gen_ai.response.model": visit.answering_version,
        "gen_ai.response.finish_reasons": (visit.finish_reason,) if visit.finish_reason else None,
        "gen_ai.response.time_to_first_chunk": visit.ttft_ms and visit.ttft_ms / 1000,
        "gen_ai.usage.input_tokens": visit.usage.prompt,
        "gen_ai.usage.output_tokens": visit.usage.completion,
        "gen_ai.usage.cache_read.input_tokens": visit.usage.cached,
        "gen_ai.conversation.id": visit.session_id,
        "error.type": error_code,
        "http.response.status_code": status,
        "trimtab.trace_id": visit.trace_id,
        "trimtab.tier": visit.tier,
        "trimtab.degraded": visit.degraded,
        "trimtab.cost_nano_dollars": visit.cost_nano,
    }
    return {name: value for name, value in found.items() if value is not None}
