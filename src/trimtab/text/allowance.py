"""What a template may spend: units for the turns it loops and the characters it may make.

Counted, not timed, so that a template that passes here passes on a slower machine too. Knows no
Jinja beyond the error that Jinja's users expect.
"""

from collections.abc import Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import TemplateError

# One unit is a character read or written. A dialogue of a thousand messages takes a few million.
ALLOWANCE = 100_000_000
# A turn of a loop, a call and an element of a list take longer than a character.
TURN, CALL, ELEMENT = 1_000, 300, 300

_left: ContextVar[list[int]] = ContextVar("left")


class OutOfAllowance(TemplateError):
    """The template does more than any rendering of messages needs."""


@contextmanager
def step_budget() -> Iterator[None]:
    """A fresh allowance for what runs inside: one compilation or one rendering."""
    token = _left.set([ALLOWANCE])
    try:
        yield
    finally:
        _left.reset(token)


def spend(units: int) -> bool:
    """Always true, so that it fits into conditions. Raises OutOfAllowance."""
    left = _left.get()
    left[0] -= units
    if left[0] < 0:
        raise OutOfAllowance("the template loops too long or makes too much text")
    return True


def weigh(value: Any) -> Any:
    """The value, after spending all characters in it."""
    spend(size(value))
    return value


def skim(value: Any, element: int = 1) -> Any:
    """The value, after spending `element` for each of its own elements, whatever these hold."""
    if isinstance(value, Sized):
        spend(element * len(value))
    return value


def spend_product(subject: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """The most that `replace`, `join` or `center` can make of their subject."""
    spend(size(subject) * (1 + sum(factor(value) for value in (*args, *kwargs.values()))))


def factor(value: Any) -> int:
    """A number may be a width or a count, so it weighs what it says."""
    return max(abs(value), 1) if isinstance(value, int) else size(value)


def size(value: Any) -> int:
    """Characters in a value and all that it holds. Raises OutOfAllowance where that has no end."""
    if isinstance(value, str):
        return len(value) + 1
    total, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            total += len(item) + 1
            continue
        total += ELEMENT
        if isinstance(item, dict):
            waiting += (*item.keys(), *item.values())
        elif isinstance(item, list | tuple):
            waiting += item
        elif isinstance(item, range):
            total += ELEMENT * len(item)
        if total > ALLOWANCE:
            raise OutOfAllowance("the template makes too much text")
    return total
