"""Spans, as a collector on a real socket gets them."""

import http.server
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.gateway.echo import Echo
from tests.gateway.visiting import Visitors
from tests.gateway.world import PROMPT, World, app_with, listening, until
from trimtab.gateway.telemetry import refusals, spans
from trimtab.gateway.telemetry.spans import Spans

ASK = {"model": "desk", "prompt": PROMPT, "max_tokens": 5}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@dataclass
class Collector:
    """Takes OTLP over HTTP (https://opentelemetry.io/docs/specs/otlp/#otlphttp)."""

    url: str
    raw: list[bytes] = field(default_factory=list)
    services: set[str] = field(default_factory=set)
    spans: list[Span] = field(default_factory=list)

    def take(self, data: bytes) -> None:
        self.raw.append(data)
        for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
            self.services.add(_values(resource.resource.attributes)["service.name"])
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def span(self) -> tuple[Span, dict[str, Any]]:
        """The next one, and its attributes."""
        until(lambda: bool(self.spans))
        span = self.spans.pop(0)
        return span, _values(span.attributes)


def _values(attributes: Any) -> dict[str, Any]:
    found = {}
    for pair in attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        if kind == "array_value":
            value = [each.string_value for each in value.values]
        found[pair.key] = value
    return found


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            found.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    found = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def traced(collector: Collector, world: World, echo: Echo) -> Iterator[httpx.Client]:
    with listening(app_with(world, echo), world.key.key) as client:
        yield client


def test_a_request_is_a_span_of_its_callers_trace(
    world: World, traced: httpx.Client, collector: Collector
) -> None:
    before = time.time_ns()
    header = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    asked = {**ASK, "stream": True, "session_id": "s-1"}
    answer = traced.post("/v1/generate", json=asked, headers=header)
    span, told = collector.span()
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert answer.headers["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert (span.name, span.kind) == ("chat desk", Span.SPAN_KIND_SERVER)
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert before <= span.start_time_unix_nano < span.end_time_unix_nano <= time.time_ns()
    [logged] = world.log()
    assert logged.ttft_ms is not None
    taken_ms = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
    assert taken_ms == pytest.approx(logged.latency_ms, abs=0.01)
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "trimtab",
        "gen_ai.request.model": "desk",
        "gen_ai.response.id": logged.id,
        "gen_ai.response.model": world.adapter.hash,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": pytest.approx(logged.ttft_ms / 1000),
        "gen_ai.usage.input_tokens": world.prompt_tokens,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.conversation.id": "s-1",
        "http.response.status_code": 200,
        "trimtab.trace_id": TRACE,
        "trimtab.tier": "adapter",
        "trimtab.degraded": False,
        "trimtab.cost_nano_dollars": logged.cost_nano,
    }
    assert collector.services == {"trimtab-gateway"}
    everything = b"".join(collector.raw)
    assert b"desk" in everything
    for secret in (PROMPT, "yes", world.key.key, world.key.id):
        assert secret.encode() not in everything


def test_a_failure_says_its_code(
    world: World, traced: httpx.Client, echo: Echo, collector: Collector
) -> None:
    traced.post("/v1/generate", json={**ASK, "model": "nobody's"})
    span, told = collector.span()
    # As for any server: what the caller did wrong is no error of the span.
    assert (span.name, span.status.code) == ("chat", Status.STATUS_CODE_UNSET)
    assert (told["error.type"], told["http.response.status_code"]) == ("model_not_found", 404)
    assert "gen_ai.response.model" not in told
    echo.die_after = 0
    score = {"model": "desk", "prompt": PROMPT, "completions": ["yes"]}
    assert traced.post("/v1/score", json=score).status_code == 503
    span, told = collector.span()
    assert (span.name, span.status.code) == ("score desk", Status.STATUS_CODE_ERROR)
    assert told["error.type"] == "engine_unavailable"
    assert told["trimtab.cost_nano_dollars"] == 0


def test_a_refusal_is_a_span_of_its_callers_trace(
    traced: httpx.Client, collector: Collector
) -> None:
    header = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    asked = {"model": "desk", "prompt": [PROMPT]}
    answer = traced.post("/v1/generate", json=asked, headers=header)
    span, told = collector.span()
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert answer.headers["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert (span.name, span.status.code) == ("chat", Status.STATUS_CODE_UNSET)
    assert told == {
        "gen_ai.provider.name": "trimtab",
        "gen_ai.operation.name": "chat",
        "error.type": "invalid_request",
        "http.response.status_code": 422,
        "trimtab.trace_id": TRACE,
    }
    traced.get("/v1/models", headers={"Authorization": "Bearer x"})
    span, told = collector.span()
    assert (span.name, told["error.type"]) == ("models", "wrong_key")
    assert PROMPT.encode() not in b"".join(collector.raw)


def test_a_flood_of_refusals_leaves_room_for_the_spans_of_requests(
    traced: httpx.Client, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "BURST", 1)
    monkeypatch.setattr(refusals, "A_SECOND", 0)
    for _ in range(4):
        traced.get("/v1/models", headers={"Authorization": "Bearer x"})
    traced.post("/v1/generate", json=ASK)
    assert [collector.span()[0].name for _ in range(2)] == ["models", "chat desk"]


def test_the_caller_decides_what_is_kept(traced: httpx.Client, collector: Collector) -> None:
    quiet = {"traceparent": f"00-{'c' * 32}-{PARENT}-00"}
    traced.post("/v1/generate", json=ASK, headers=quiet)
    # A trace of the body's own goes before the header's, whose span is no part of it.
    named = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    traced.post("/v1/generate", json={**ASK, "trace_id": "a" * 32}, headers=named)
    span, _ = collector.span()
    assert (span.trace_id.hex(), span.parent_span_id) == ("a" * 32, b"")
    traced.post("/v1/generate", json={**ASK, "trace_id": "ticket-7"})
    span, told = collector.span()
    assert told["trimtab.trace_id"] == "ticket-7"
    assert not collector.spans


@pytest.mark.parametrize(
    ("variable", "value", "warned"),
    [
        ("OTEL_SERVICE_NAME", "desk", False),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1", True),
    ],
)
def test_nothing_is_loaded_unasked_and_nothing_fails_without_it(
    world: World,
    echo: Echo,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variable: str,
    value: str,
    warned: bool,
) -> None:
    # As where the extra is not installed.
    monkeypatch.setitem(sys.modules, "trimtab.gateway.telemetry.spans", None)
    monkeypatch.setenv(variable, value)
    with listening(app_with(world, echo), world.key.key) as client:
        assert client.post("/v1/generate", json=ASK).status_code == 200
    assert ("pip install 'trimtab[otel]'" in caplog.text) is warned


def test_a_collector_that_is_gone_keeps_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "CLOSE_S", 0.2)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    sending = Spans()
    sending.note(Visitors(world).visit(), 200, None)
    began = time.monotonic()
    sending.close()
    assert time.monotonic() - began < 2
