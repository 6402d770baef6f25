"""Exchange rates, quotes and limits: what a payment in one currency buys of another, decided before it is made.

A rate is an exact integer: units of the account's currency per unit of the payment's, times 10^12.
"""

import re
from dataclasses import dataclass
from datetime import date

from services.payment.rules.facts import Money
from shared.clock import DAY_US, SECOND_US, from_us
from shared.errors import Refusal
from shared.money import AMOUNT_MICROS_MAX, NotMoneyError, format_micros, parse_micros

RATE_ONE_E12 = 10**12
_RATE = re.compile(r"(\d{1,12})(?:\.(\d{1,12}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate as an operator published it; it holds from the beginning of `valid_on`, UTC."""

    from_currency: str
    to_currency: str
    rate_e12: int
    valid_on: date


@dataclass(frozen=True, slots=True)
class Quote:
    """A price that holds until `expires_at_us`: so much of the account's currency for exactly this money."""

    quote_id: str
    region: str
    money: Money
    rate: Rate
    credit_micros: int
    expires_at_us: int


def parse_rate(text: str) -> int:
    """Read a decimal rate such as "25400.5". Raises Refusal for zero and for more than twelve decimals."""
    found = _RATE.fullmatch(text)
    rate_e12 = 0 if found is None else int(found[1]) * RATE_ONE_E12 + int((found[2] or "").ljust(12, "0"))
    if not 0 < rate_e12 <= AMOUNT_MICROS_MAX:
        raise Refusal(
            "invalid-rate",
            "a rate is a positive decimal number with at most twelve decimals, below 9 million",
            status=422,
        )
    return rate_e12


def format_rate(rate_e12: int) -> str:
    whole, fraction = divmod(rate_e12, RATE_ONE_E12)
    decimals = f"{fraction:012d}".rstrip("0")
    return f"{whole}.{decimals}" if decimals else str(whole)


def parse_amount(text: str, currency: str) -> Money:
    """Read what a customer wants to pay. Raises Refusal."""
    try:
        amount_micros = parse_micros(text)
    except NotMoneyError as error:
        raise Refusal("invalid-amount", str(error), status=422) from error
    if not 0 < amount_micros <= AMOUNT_MICROS_MAX:
        raise Refusal("invalid-amount", "the amount must be positive and below nine trillion", status=422)
    return Money(amount_micros, currency)


def convert(money: Money, rate_e12: int) -> int:
    """What `money` buys, in micros of the account's currency, rounded down. Raises Refusal for nothing or too much."""
    credit_micros = money.amount_micros * rate_e12 // RATE_ONE_E12
    if not 0 < credit_micros <= AMOUNT_MICROS_MAX:
        raise Refusal(
            "invalid-amount", "at this rate the amount buys nothing, or more than an account holds", status=422
        )
    return credit_micros


def check_rate_age(rate: Rate, now_us: int, age_seconds_max: int) -> None:
    """Refuse a rate that holds no longer: an operator has to publish a new one."""
    age_us = (from_us(now_us).date() - rate.valid_on).days * DAY_US
    if age_us > age_seconds_max * SECOND_US:
        raise Refusal(
            "exchange-rate-too-old",
            f"the latest rate from {rate.from_currency} to {rate.to_currency} is of {rate.valid_on}",
        )


def check_quote(quote: Quote, region: str, money: Money, now_us: int) -> None:
    """Refuse a quote that is over or for something else."""
    if (quote.region, quote.money) != (region, money):
        raise Refusal("quote-differs", "the quote is for another amount, currency or region; ask for a new one")
    if now_us >= quote.expires_at_us:
        raise Refusal("quote-expired", "the quote holds no longer; ask for a new one")


def check_limits(money: Money, least_micros: int, most_micros: int) -> None:
    """Refuse what the provider would not take."""
    if not least_micros <= money.amount_micros <= most_micros:
        least, most = format_micros(least_micros), format_micros(most_micros)
        raise Refusal(
            "amount-outside-limits",
            f"{format_micros(money.amount_micros)} {money.currency} is not between {least} and {most}",
            status=422,
            min=least,
            max=most,
        )
