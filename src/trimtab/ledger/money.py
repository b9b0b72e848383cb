"""Money in integer nano-dollars: a sum of integers is exact, a sum of floats is not."""

from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation

from trimtab.errors import UserError

NANO = 1_000_000_000
MILLION = 1_000_000
# A dollar a token; beyond it a prompt's price could pass what a column holds.
MOST_TOKEN_NANO = NANO
# What a 64-bit column can add up without overflow: nine billion dollars.
MOST_NANO = 9 * 10**18
# Whatever digits are written beyond it round up too.
_EXACT = Context(prec=40, rounding=ROUND_CEILING)


@dataclass(frozen=True, slots=True)
class Price:
    """Nano-dollars for one token: 1 nano-dollar a token is 0.001 dollars a million.

    `cached_nano` is for a token of a prompt that was computed before, never more than for another;
    None where they cost the same.
    """

    prompt_nano: int
    completion_nano: int
    cached_nano: int | None = None

    @property
    def cached(self) -> int:
        """What a token of a prompt costs at least."""
        return self.prompt_nano if self.cached_nano is None else self.cached_nano

    def of(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> int:
        """What so many tokens cost, in nano-dollars; of the prompt's, some were cached."""
        whole = prompt_tokens * self.prompt_nano + completion_tokens * self.completion_nano
        return whole - min(cached_tokens, prompt_tokens) * (self.prompt_nano - self.cached)

    def least(self, prompt_tokens: int, completion_tokens: int = 0) -> int:
        """What so many tokens cost where all of the prompt was cached."""
        return self.of(prompt_tokens, completion_tokens, prompt_tokens)


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


def price_of_million(prompt: str, completion: str, cached: str | None = None) -> Price:
    """A price that is written in dollars for a million tokens.

    Raises UserError for what is no amount, and for one that is no whole number of nano-dollars a
    token: what is stated is what is charged.
    """
    price = Price(
        _nano_of_million(prompt),
        _nano_of_million(completion),
        None if cached is None else _nano_of_million(cached),
    )
    if price.cached > price.prompt_nano:
        raise UserError(
            f"a cached token at {cached} would cost more than another of the prompt at {prompt}",
            hint="what is held before work covers the prompt's price alone",
        )
    return price


def _nano_of_million(dollars: str) -> int:
    amount = nano(dollars)
    token, rest = divmod(amount, MILLION)
    if rest or Decimal(dollars) * NANO != amount:
        raise UserError(
            f"{dollars} dollars a million is no whole number of nano-dollars a token",
            hint="state it to a tenth of a cent, e.g. 0.125",
        )
    if token > MOST_TOKEN_NANO:
        raise UserError(
            f"{dollars} dollars a million is more than {show(MOST_TOKEN_NANO * MILLION)}",
            hint="a price is for a million tokens",
        )
    return token


def usd_of_million(token_nano: int) -> float:
    """Dollars for a million tokens at so many nano-dollars each."""
    return token_nano * MILLION / NANO


def usd(amount_nano: int) -> float:
    """Dollars as a float, for JSON: exact to the last digit a float can show."""
    return amount_nano / NANO


def show(amount_nano: int) -> str:
    """Dollars for people: cents at least, and every digit that says something."""
    sign = "-" if amount_nano < 0 else ""
    whole, fraction = divmod(abs(amount_nano), NANO)
    digits = f"{fraction:09d}".rstrip("0")
    return f"{sign}${whole:,}.{digits:0<2}"
