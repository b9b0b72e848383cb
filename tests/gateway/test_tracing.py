import re

import pytest

from trimtab.gateway.telemetry.tracing import Trace

ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


def test_a_trace_goes_on_under_a_span_of_our_own() -> None:
    trace = Trace.of_header(f"00-{ID}-{PARENT}-01")
    assert re.fullmatch(rf"00-{ID}-[0-9a-f]{{16}}-01", trace.header)
    assert trace.span_id != PARENT


def test_a_later_version_may_say_more() -> None:
    assert Trace.of_header(f"cc-{ID}-{PARENT}-00-more").trace_id == ID


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        f"00-{ID}-{PARENT}",
        f"00-{ID.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{ID}-{'0' * 16}-01",
        f"ff-{ID}-{PARENT}-01",
        f"00-{ID}-{PARENT}-01-more",
    ],
)
def test_an_invalid_header_starts_a_new_trace(header: str | None) -> None:
    trace = Trace.of_header(header)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", trace.header)
    assert trace.trace_id != ID


@pytest.mark.parametrize(
    ("trace_id", "carried"), [("a" * 32, True), ("0" * 32, False), ("ticket-7", False)]
)
def test_only_what_fits_is_carried_in_the_header(trace_id: str, carried: bool) -> None:
    assert (Trace.of_header(None).renamed(trace_id).trace_id == trace_id) is carried
