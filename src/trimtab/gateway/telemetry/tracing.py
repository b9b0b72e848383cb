"""W3C Trace Context: the `traceparent` header, both ways (https://www.w3.org/TR/trace-context/).

Knows the header alone, not what is traced.
"""

import re
from dataclasses import dataclass, replace

from trimtab.store.ids import random_bytes

# version 00 has these four fields; a later version may append more behind a dash.
_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class Trace:
    """Our own span of somebody's trace: 32 and 16 lower-case hexadecimal characters. `parent_id`
    is the caller's span, where there is one."""

    trace_id: str
    span_id: str
    sampled: bool = False
    parent_id: str | None = None

    @property
    def header(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"

    def renamed(self, trace_id: str) -> "Trace":
        """Under another trace id, where that is one a header can carry. The caller's span has no
        place in another trace."""
        fits = _TRACE_ID.fullmatch(trace_id) and set(trace_id) != {"0"}
        if not fits or trace_id == self.trace_id:
            return self
        return replace(self, trace_id=trace_id, parent_id=None)

    @classmethod
    def of_header(cls, header: str | None) -> "Trace":
        """Continue the caller's trace; an absent or invalid header starts a new one."""
        parsed = _parsed(header or "")
        trace_id, parent_id, sampled = parsed or (random_bytes().hex(), None, False)
        return cls(trace_id, random_bytes()[:8].hex(), sampled, parent_id)


def _parsed(header: str) -> tuple[str, str, bool] | None:
    match = _HEADER.fullmatch(header.strip())
    if match is None:
        return None
    version, trace_id, parent, flags, more = match.groups()
    if version == "ff" or (version == "00" and more is not None):
        return None
    if set(trace_id) == {"0"} or set(parent) == {"0"}:
        return None
    return trace_id, parent, bool(int(flags, 16) & _SAMPLED)
