from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import UserError
from trimtab.ledger.money import NANO, Price, nano, price_of_million, show, usd, usd_of_million


@pytest.mark.parametrize(
    ("dollars", "expected"),
    [
        ("0", 0),
        ("2.50", 2_500_000_000),
        (5, 5 * NANO),
        ("0.0000000001", 1),
        (Decimal("1e-9"), 1),
        ("1.0000000000000000000000000000000001", NANO + 1),
        ("1e-999999", 1),
        ("9e9", 9 * 10**18),
    ],
)
def test_dollars_become_nano_dollars(dollars: str | int | Decimal, expected: int) -> None:
    assert nano(dollars) == expected


def test_a_refused_amount_is_named() -> None:
    with pytest.raises(UserError) as caught:
        nano("five")
    assert (caught.value.message, caught.value.hint) == (
        "'five' is not an amount of dollars",
        "e.g. 2.50",
    )
    with pytest.raises(UserError) as caught:
        nano("9" * 50)
    assert (caught.value.message, caught.value.hint) == (
        f"'{'9' * 40}' is more than $9,000,000,000.00",
        "leave the limit out",
    )


@pytest.mark.parametrize("dollars", ["", "five", "-1", "nan", "inf", "9000000001", "1e999999"])
def test_what_is_no_amount_is_refused(dollars: str) -> None:
    with pytest.raises(UserError):
        nano(dollars)


@given(st.integers(min_value=0, max_value=10**15))
def test_what_is_shown_is_the_amount(amount: int) -> None:
    assert nano(show(amount).removeprefix("$").replace(",", "")) == amount


def test_amounts_for_people() -> None:
    assert show(0) == "$0.00"
    assert show(2_500_000_000) == "$2.50"
    assert show(1_234_567_000_000_100) == "$1,234,567.0000001"
    assert show(-NANO) == "-$1.00"
    assert usd(1_500_000_000) == 1.5


def test_a_price_is_for_one_token() -> None:
    price = Price(prompt_nano=10, completion_nano=30)
    assert price.of(100, 48) == price.of(100, 48, cached_tokens=64) == 1000 + 1440
    cheaper = Price(prompt_nano=10, completion_nano=30, cached_nano=4)
    assert cheaper.of(100, 48) == 1000 + 1440
    assert cheaper.of(100, 48, cached_tokens=64) == 360 + 256 + 1440
    assert cheaper.of(100, 0, cached_tokens=1000) == cheaper.least(100) == 400
    assert cheaper.least(100, 48) == 400 + 1440


@given(st.integers(min_value=0, max_value=NANO))
def test_a_price_of_a_million_is_the_price_of_a_token(token: int) -> None:
    written = str(Decimal(token) / 1000)
    assert price_of_million(written, "0") == Price(token, 0)
    assert usd_of_million(token) == float(written)


def test_a_token_that_was_cached_may_cost_less() -> None:
    assert price_of_million("0.1", "0.4", "0.025") == Price(100, 400, 25)
    assert price_of_million("0.1", "0.4", "0.1") == Price(100, 400, 100)


@pytest.mark.parametrize(
    ("prompt", "cached", "message", "hint"),
    [
        (
            "0.1",
            "0.2",
            "a cached token at 0.2 would cost more than another of the prompt at 0.1",
            "what is held before work covers the prompt's price alone",
        ),
        # A part of a nano-dollar a token; and one that rounding up would hide.
        *(
            (
                written,
                None,
                f"{written} dollars a million is no whole number of nano-dollars a token",
                "state it to a tenth of a cent, e.g. 0.125",
            )
            for written in ("0.0001", "0.0009999999999")
        ),
        (
            "1000001",
            None,
            "1000001 dollars a million is more than $1,000,000.00",
            "a price is for a million tokens",
        ),
    ],
)
def test_a_price_that_would_not_be_what_is_charged_is_refused(
    prompt: str, cached: str | None, message: str, hint: str
) -> None:
    with pytest.raises(UserError) as caught:
        price_of_million(prompt, "0", cached)
    assert (caught.value.message, caught.value.hint) == (message, hint)
