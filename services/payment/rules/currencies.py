"""What providers call an amount: Stripe's minor units per currency, and VNPay's hundredths of a dong.

Exact both ways. An amount that a provider can't take whole is refused, never rounded. Sources: Stripe's "Supported
currencies" (minor units, special cases, least amounts) and the list in its own answer to an unknown currency, without
those that no longer exist (EEK HRK LTL LVL MRO SLL VEF, BGN since 2026) and with XCG, which follows ANG; VNPay's 2.1.0.
"""

from dataclasses import dataclass
from typing import Final

from services.payment.rules.facts import Money
from shared.errors import Refusal
from shared.money import MICROS, format_micros


@dataclass(frozen=True, slots=True)
class MinorUnit:
    """A currency at Stripe: one unit in micros, and the number that every amount in units is a multiple of."""

    micros: int
    multiple: int = 1


_WHOLE = MinorUnit(MICROS)
_HUNDREDTH = MinorUnit(MICROS // 100)
# Still sent as hundredths, from before they lost their decimals: 5 ISK is 500.
_WHOLE_AS_HUNDREDTHS = MinorUnit(MICROS // 100, multiple=100)
# Card networks carry two decimals of three: the last digit is 0.
_THOUSANDTH = MinorUnit(MICROS // 1000, multiple=10)

_WHOLE_CODES = "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF"
_WHOLE_AS_HUNDREDTHS_CODES = "ISK UGX"
_THOUSANDTH_CODES = "BHD JOD KWD OMR TND"
_HUNDREDTH_CODES = """
AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC CVE CZK
DKK DOP DZD EGP ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR JMD KES KGS KHR KYD KZT LAK LBP
LKR LRD LSL MAD MDL MKD MMK MNT MOP MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD
RUB SAR SBD SCR SEK SGD SHP SLE SOS SRD STD SVC SZL THB TJS TOP TRY TTD TWD TZS UAH USD UYU UZS WST XCD XCG YER ZAR ZMW
"""

STRIPE_UNITS: Final[dict[str, MinorUnit]] = {
    code: unit
    for codes, unit in (
        (_WHOLE_CODES, _WHOLE),
        (_WHOLE_AS_HUNDREDTHS_CODES, _WHOLE_AS_HUNDREDTHS),
        (_THOUSANDTH_CODES, _THOUSANDTH),
        (_HUNDREDTH_CODES, _HUNDREDTH),
    )
    for code in codes.split()
}

# The least charge where the account settles in that currency; elsewhere it depends on Stripe's rate of the day, and
# its own refusal is passed on. They move: settings start from them.
STRIPE_LEAST: Final[dict[str, str]] = {
    "AED": "2.00", "ARS": "0.50", "AUD": "0.50", "BRL": "0.50", "CAD": "0.50", "CHF": "0.50", "COP": "0.50",
    "CZK": "15.00", "DKK": "2.50", "EUR": "0.50", "GBP": "0.30", "HKD": "4.00", "HUF": "175.00", "IDR": "0.50",
    "ILS": "0.50", "INR": "0.50", "JPY": "50", "KRW": "50", "MXN": "10.00", "MYR": "2.00", "NOK": "3.00",
    "NZD": "0.50", "PHP": "0.50", "PLN": "2.00", "RON": "2.00", "RUB": "0.50", "SEK": "3.00", "SGD": "0.50",
    "THB": "10.00", "USD": "0.50", "ZAR": "0.50",
}  # fmt: skip

# Digits of the greatest amount in units that every payment method takes.
_STRIPE_DIGITS: Final[dict[str, int]] = {"IDR": 12, "COP": 10, "INR": 9}
_STRIPE_DIGITS_ELSEWHERE = 8

_VNPAY_CURRENCY = "VND"
_VNPAY_UNIT = MinorUnit(MICROS // 100, multiple=100)
VNPAY_LEAST: Final = "5000"
VNPAY_MOST: Final = "999999999"


def payable_micros(currency: str) -> int:
    """The least amount of which Stripe takes multiples: a cent of most currencies, a whole unit of others."""
    unit = STRIPE_UNITS.get(currency, _HUNDREDTH)
    return unit.micros * unit.multiple


def decimals_of(currency: str) -> int:
    """With how many decimals an amount of the currency is written: as many as what is payable has."""
    return next(digits for digits in range(7) if payable_micros(currency) % 10 ** (6 - digits) == 0)


def to_stripe_units(money: Money) -> int:
    """The amount as Stripe takes it: 50.00 USD is 5000, 500 JPY is 500, 5 ISK is 500, 5.12 KWD is 5120.

    Raises Refusal: `currency-not-supported`, `amount-not-payable` unless the amount is positive and whole.
    """
    return _to_units(money, _stripe_unit(money.currency))


def from_stripe_units(units: int, currency: str) -> Money:
    """What Stripe states as micros, exactly; `currency` in either case. Raises Refusal for a currency not in the table.

    What is there is there: an amount that could not have been asked for is still read as it is.
    """
    code = currency.upper()
    return Money(units * _stripe_unit(code).micros, code)


def stripe_most(currency: str) -> str:
    """The greatest amount that every payment method takes, as a decimal amount. Raises Refusal as `to_stripe_units`."""
    unit = _stripe_unit(currency)
    units = 10 ** _STRIPE_DIGITS.get(currency, _STRIPE_DIGITS_ELSEWHERE) - 1
    return format_micros(units // unit.multiple * unit.multiple * unit.micros)


def to_vnpay_units(money: Money) -> int:
    """Whole dong times 100, as `vnp_Amount`. Raises Refusal as `to_stripe_units`."""
    if money.currency != _VNPAY_CURRENCY:
        raise Refusal("currency-not-supported", f"VNPay takes {_VNPAY_CURRENCY} only, not {money.currency}", status=422)
    return _to_units(money, _VNPAY_UNIT)


def check_payable(provider: str, money: Money) -> None:
    """Refuse an amount that a provider can't take whole. Raises Refusal as `to_stripe_units`."""
    if provider == "vnpay":
        to_vnpay_units(money)
    else:
        to_stripe_units(money)


def from_vnpay_units(units: int) -> Money:
    """`vnp_Amount` as micros of VND, exactly."""
    return Money(units * _VNPAY_UNIT.micros, _VNPAY_CURRENCY)


def _stripe_unit(currency: str) -> MinorUnit:
    unit = STRIPE_UNITS.get(currency)
    if unit is None:
        raise Refusal("currency-not-supported", f"Stripe takes no {currency[:8]!r}", status=422)
    return unit


def _to_units(money: Money, unit: MinorUnit) -> int:
    units, rest = divmod(money.amount_micros, unit.micros)
    if units <= 0 or rest or units % unit.multiple:
        least = format_micros(unit.micros * unit.multiple)
        raise Refusal(
            "amount-not-payable",
            f"{format_micros(money.amount_micros)} {money.currency} is no positive multiple of {least}",
            status=422,
        )
    return units
