"""Rate limits of keys: requests and tokens a minute, the same for all gateways of a database.

A request takes its worst case of tokens and gives back what it did not use. What is refused takes
nothing, and a dry run refuses nothing: it counts on, and tells.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from trimtab.gateway.billing import gcra
from trimtab.gateway.billing.gcra import Meter, Reading
from trimtab.gateway.keys import Key
from trimtab.gateway.tables import LOCK_METERS, PUT_METERS
from trimtab.store.database import Connection

Kind = Literal["requests", "tokens"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the limits of a key say to a request. `refused` names the kind that is used up; `after`
    is how full the buckets are once it was served."""

    readings: Mapping[Kind, Reading]
    refused: Kind | None = None
    dry_run: bool = False
    after: Mapping[Kind, Meter] = field(default_factory=dict)

    @property
    def enforced(self) -> bool:
        return self.refused is not None and not self.dry_run

    def headers(self) -> dict[str, str]:
        """RateLimit, RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-10), Retry-After."""
        if not self.readings:
            return {}
        policies = (f'"{kind}";q={read.quota};w=60' for kind, read in self.readings.items())
        now = (f'"{kind}";r={read.left};t={read.reset_s}' for kind, read in self.readings.items())
        found = {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(now)}
        if self.refused is not None and self.dry_run:
            found["Trimtab-Would-Refuse"] = self.refused
        elif self.refused is not None:
            retry = self.readings[self.refused].retry_s
            if retry is not None:
                found["Retry-After"] = str(max(1, retry))
        return found


def quotas(key: Key) -> dict[Kind, int]:
    found: dict[Kind, int] = {}
    if key.limits.requests_per_minute is not None:
        found["requests"] = key.limits.requests_per_minute
    if key.limits.tokens_per_minute is not None:
        found["tokens"] = key.limits.tokens_per_minute
    return found


class Meters:
    """The meters of the keys of one transaction: locked and read once, written once."""

    def __init__(self, connection: Connection, keys: Iterable[Key], now_us: int) -> None:
        self._connection = connection
        self._now_us = now_us
        self._meters: dict[tuple[str, Kind], Meter] = {}
        self._changed: set[tuple[str, Kind]] = set()
        ids = sorted({key.id for key in keys if quotas(key)})
        for row in LOCK_METERS.rows(connection, ids=ids):
            self._meters[row.key_id, row.kind] = Meter(row.level, row.updated_us)

    def ask(self, key: Key, tokens: int) -> Verdict:
        """Whether one request of so many tokens may be served; takes nothing."""
        wanted: dict[Kind, int] = {"requests": 1, "tokens": tokens}
        before: dict[Kind, Meter] = {}
        taken: dict[Kind, Meter] = {}
        refused: Kind | None = None
        for kind, quota in quotas(key).items():
            before[kind] = gcra.drained(self._meter(key, kind), quota, self._now_us)
            taken[kind], given = gcra.take(before[kind], quota, wanted[kind], self._now_us)
            if not given:
                refused = refused or kind
                # A dry run serves it, so the bucket stands as full as it can be.
                taken[kind] = Meter(quota * gcra.PERIOD_US, taken[kind].at_us)
        now = taken if refused is None or key.limits.dry_run else before
        readings = {
            kind: gcra.read(now[kind], quota, wanted[kind] if kind == refused else 0)
            for kind, quota in quotas(key).items()
        }
        return Verdict(readings, refused, key.limits.dry_run, taken)

    def take(self, key: Key, verdict: Verdict) -> None:
        """Serve the request that was asked for last with this key."""
        for kind, meter in verdict.after.items():
            self._put(key, kind, meter)

    def give_back(self, key: Key, tokens: int) -> None:
        """Tokens that were taken and not used."""
        quota = quotas(key).get("tokens")
        if quota is not None and tokens > 0:
            meter = self._meter(key, "tokens")
            self._put(key, "tokens", gcra.give_back(meter, quota, tokens, self._now_us))

    def write(self) -> None:
        changed = [(*place, self._meters[place]) for place in sorted(self._changed)]
        PUT_METERS.run(
            self._connection,
            [
                {"key_id": key, "kind": kind, "level": at.level, "updated_us": at.at_us}
                for key, kind, at in changed
            ],
        )

    def _meter(self, key: Key, kind: Kind) -> Meter:
        return self._meters.get((key.id, kind)) or Meter(0, self._now_us)

    def _put(self, key: Key, kind: Kind, meter: Meter) -> None:
        self._meters[key.id, kind] = meter
        self._changed.add((key.id, kind))
