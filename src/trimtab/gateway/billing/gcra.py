"""The generic cell rate algorithm in integers, as its continuous-state leaky bucket.

ITU-T I.371 gives two forms of one law: a theoretical arrival time, or a bucket that leaks. The
bucket's level needs no division, so nothing is lost by rounding: a unit of work weighs `PERIOD_US`,
and `quota` leaks away each microsecond. A full bucket (`quota` units) is the burst, and drains in
one period. Knows nothing of databases or keys.
"""

from dataclasses import dataclass

PERIOD_US = 60_000_000


@dataclass(frozen=True, slots=True)
class Meter:
    """How full the bucket was at a time (microseconds)."""

    level: int = 0
    at_us: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """What a meter says: units that can be had at once, and seconds, rounded up, until the bucket
    is empty (`reset_s`) and until what was refused could be had (`retry_s`, 0 where it was not).

    `retry_s` is None where the amount is above the burst and can never be had.
    """

    quota: int
    left: int
    reset_s: int
    retry_s: int | None = 0


def drained(meter: Meter, quota: int, now_us: int) -> Meter:
    """The meter as it is at a time.

    A clock that goes back drains nothing, and waits; further back than a period, it is the clock
    that was wrong before, and the meter goes on from the new time with the level it has.
    """
    passed = now_us - meter.at_us
    if passed < -PERIOD_US:
        return Meter(min(meter.level, quota * PERIOD_US), now_us)
    if passed <= 0:
        return meter
    return Meter(max(0, meter.level - passed * quota), now_us)


def take(meter: Meter, quota: int, units: int, now_us: int) -> tuple[Meter, bool]:
    """Ask for units at a time: the meter after it, and whether they were given."""
    now = drained(meter, quota, now_us)
    after = now.level + units * PERIOD_US
    if after > quota * PERIOD_US:
        return now, False
    return Meter(after, now.at_us), True


def give_back(meter: Meter, quota: int, units: int, now_us: int) -> Meter:
    """Return what was taken and not used; never below empty."""
    now = drained(meter, quota, now_us)
    return Meter(max(0, now.level - units * PERIOD_US), now.at_us)


def read(meter: Meter, quota: int, refused: int = 0) -> Reading:
    """What to tell a client; `refused` are units that it asked for in vain."""
    most = quota * PERIOD_US
    left = max(0, most - meter.level) // PERIOD_US
    retry: int | None = 0
    if refused:
        over = meter.level + refused * PERIOD_US - most
        retry = _seconds(over, quota) if refused <= quota else None
    return Reading(quota, left, _seconds(meter.level, quota), retry)


def _seconds(level: int, quota: int) -> int:
    """How long so much takes to leak, in whole seconds, rounded up."""
    return -(-level // (quota * 1_000_000))
