"""Money in integer nano-dollars: a sum of integers is exact, a sum of floats is not."""

from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation

from trimtab.errors import UserError

NANO = 1_000_000_000
# What a 64-bit column can add up without overflow: nine billion dollars.
MOST_NANO = 9 * 10**18
# Whatever digits are written beyond it round up too.
_EXACT = Context(prec=40, rounding=ROUND_CEILING)


@dataclass(frozen=True, slots=True)
class Price:
    """Nano-dollars for one token: 1 nano-dollar a token is 0.001 dollars a million."""

    prompt_nano: int
    completion_nano: int

    def of(self, prompt_tokens: int, completion_tokens: int) -> int:
        """What so many tokens cost, in nano-dollars."""
        return prompt_tokens * self.prompt_nano + completion_tokens * self.completion_nano


def nano(dollars: str | int | Decimal) -> int:
    """Dollars in nano-dollars; a fraction of one rounds up.

    Raises UserError for what is no amount, or more than a ledger can hold.
    """
    try:
        amount = Decimal(dollars)
        if not amount.is_finite() or amount < 0:
            raise InvalidOperation
    except InvalidOperation:
        raise UserError(f"'{dollars}' is not an amount of dollars", hint="e.g. 2.50") from None
    if amount > MOST_NANO // NANO:
        raise UserError(
            f"'{str(dollars)[:40]}' is more than {show(MOST_NANO)}", hint="leave the limit out"
        )
    return int(_EXACT.multiply(amount, Decimal(NANO)).to_integral_value(rounding=ROUND_CEILING))


def usd(amount_nano: int) -> float:
    """Dollars as a float, for JSON: exact to the last digit a float can show."""
    return amount_nano / NANO


def show(amount_nano: int) -> str:
    """Dollars for people: cents at least, and every digit that says something."""
    sign = "-" if amount_nano < 0 else ""
    whole, fraction = divmod(abs(amount_nano), NANO)
    digits = f"{fraction:09d}".rstrip("0")
    return f"{sign}${whole:,}.{digits:0<2}"
