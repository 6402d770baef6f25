"""Amounts as providers take them, against a table that states each number by itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.payment.rules.currencies import (
    STRIPE_LEAST,
    STRIPE_UNITS,
    VNPAY_LEAST,
    VNPAY_MOST,
    decimals_of,
    from_stripe_units,
    from_vnpay_units,
    payable_micros,
    stripe_most,
    to_stripe_units,
    to_vnpay_units,
)
from services.payment.rules.facts import Money
from services.payment.settings import PaymentSettings
from shared.errors import Refusal
from shared.money import parse_micros

# Currency, an amount as a person writes it, what Stripe takes for it, and an amount that it can't take (or -).
# Written by hand from Stripe's pages, not made by the code under test.
TABLE = """
AED 12.34 1234 12.345
AFN 12.34 1234 12.345
ALL 12.34 1234 12.345
AMD 12.34 1234 12.345
ANG 12.34 1234 12.345
AOA 12.34 1234 12.345
ARS 12.34 1234 12.345
AUD 12.34 1234 12.345
AWG 12.34 1234 12.345
AZN 12.34 1234 12.345
BAM 12.34 1234 12.345
BBD 12.34 1234 12.345
BDT 12.34 1234 12.345
BHD 12.34 12340 12.345
BIF 1234 1234 12.34
BMD 12.34 1234 12.345
BND 12.34 1234 12.345
BOB 12.34 1234 12.345
BRL 12.34 1234 12.345
BSD 12.34 1234 12.345
BTN 12.34 1234 12.345
BWP 12.34 1234 12.345
BYN 12.34 1234 12.345
BZD 12.34 1234 12.345
CAD 12.34 1234 12.345
CDF 12.34 1234 12.345
CHF 12.34 1234 12.345
CLP 1234 1234 12.34
CNY 12.34 1234 12.345
COP 12.34 1234 12.345
CRC 12.34 1234 12.345
CVE 12.34 1234 12.345
CZK 12.34 1234 12.345
DJF 1234 1234 12.34
DKK 12.34 1234 12.345
DOP 12.34 1234 12.345
DZD 12.34 1234 12.345
EGP 12.34 1234 12.345
ETB 12.34 1234 12.345
EUR 12.34 1234 12.345
FJD 12.34 1234 12.345
FKP 12.34 1234 12.345
GBP 12.34 1234 12.345
GEL 12.34 1234 12.345
GHS 12.34 1234 12.345
GIP 12.34 1234 12.345
GMD 12.34 1234 12.345
GNF 1234 1234 12.34
GTQ 12.34 1234 12.345
GYD 12.34 1234 12.345
HKD 12.34 1234 12.345
HNL 12.34 1234 12.345
HTG 12.34 1234 12.345
HUF 12.34 1234 12.345
IDR 12.34 1234 12.345
ILS 12.34 1234 12.345
INR 12.34 1234 12.345
ISK 12 1200 12.34
JMD 12.34 1234 12.345
JOD 12.34 12340 12.345
JPY 1234 1234 12.34
KES 12.34 1234 12.345
KGS 12.34 1234 12.345
KHR 12.34 1234 12.345
KMF 1234 1234 12.34
KRW 1234 1234 12.34
KWD 12.34 12340 12.345
KYD 12.34 1234 12.345
KZT 12.34 1234 12.345
LAK 12.34 1234 12.345
LBP 12.34 1234 12.345
LKR 12.34 1234 12.345
LRD 12.34 1234 12.345
LSL 12.34 1234 12.345
MAD 12.34 1234 12.345
MDL 12.34 1234 12.345
MGA 1234 1234 12.34
MKD 12.34 1234 12.345
MMK 12.34 1234 12.345
MNT 12.34 1234 12.345
MOP 12.34 1234 12.345
MUR 12.34 1234 12.345
MVR 12.34 1234 12.345
MWK 12.34 1234 12.345
MXN 12.34 1234 12.345
MYR 12.34 1234 12.345
MZN 12.34 1234 12.345
NAD 12.34 1234 12.345
NGN 12.34 1234 12.345
NIO 12.34 1234 12.345
NOK 12.34 1234 12.345
NPR 12.34 1234 12.345
NZD 12.34 1234 12.345
OMR 12.34 12340 12.345
PAB 12.34 1234 12.345
PEN 12.34 1234 12.345
PGK 12.34 1234 12.345
PHP 12.34 1234 12.345
PKR 12.34 1234 12.345
PLN 12.34 1234 12.345
PYG 1234 1234 12.34
QAR 12.34 1234 12.345
RON 12.34 1234 12.345
RSD 12.34 1234 12.345
RUB 12.34 1234 12.345
RWF 1234 1234 12.34
SAR 12.34 1234 12.345
SBD 12.34 1234 12.345
SCR 12.34 1234 12.345
SEK 12.34 1234 12.345
SGD 12.34 1234 12.345
SHP 12.34 1234 12.345
SLE 12.34 1234 12.345
SOS 12.34 1234 12.345
SRD 12.34 1234 12.345
STD 12.34 1234 12.345
SVC 12.34 1234 12.345
SZL 12.34 1234 12.345
THB 12.34 1234 12.345
TJS 12.34 1234 12.345
TND 12.34 12340 12.345
TOP 12.34 1234 12.345
TRY 12.34 1234 12.345
TTD 12.34 1234 12.345
TWD 12.34 1234 12.345
TZS 12.34 1234 12.345
UAH 12.34 1234 12.345
UGX 12 1200 12.34
USD 12.34 1234 12.345
UYU 12.34 1234 12.345
UZS 12.34 1234 12.345
VND 1234 1234 12.34
VUV 1234 1234 12.34
WST 12.34 1234 12.345
XAF 1234 1234 12.34
XCD 12.34 1234 12.345
XCG 12.34 1234 12.345
XOF 1234 1234 12.34
XPF 1234 1234 12.34
YER 12.34 1234 12.345
ZAR 12.34 1234 12.345
ZMW 12.34 1234 12.345
"""
WHOLE = {"BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"}
WHOLE_AS_HUNDREDTHS = {"ISK", "UGX"}
ROWS = [line.split() for line in TABLE.strip().splitlines()]


@pytest.mark.parametrize(("currency", "amount", "units", "refused"), ROWS, ids=[row[0] for row in ROWS])
def test_every_currency_is_sent_in_its_own_units(currency: str, amount: str, units: str, refused: str) -> None:
    money = Money(parse_micros(amount), currency)
    assert to_stripe_units(money) == int(units)
    assert from_stripe_units(int(units), currency.lower()) == money
    with pytest.raises(Refusal, match="amount-not-payable"):
        to_stripe_units(Money(parse_micros(refused), currency))


def test_the_table_is_whole() -> None:
    assert sorted(STRIPE_UNITS) == [row[0] for row in ROWS]
    assert len(ROWS) == len({row[0] for row in ROWS}) == 142


@given(st.sampled_from(sorted(STRIPE_UNITS)), st.integers(-(10**15), 10**15))
def test_an_amount_is_taken_whole_or_refused(currency: str, amount_micros: int) -> None:
    money = Money(amount_micros, currency)
    # One payable step in micros: dividing by it is another way to the same answer.
    # Of three decimals the last is always 0, so the step is a hundredth there too.
    step = 1_000_000 if currency in WHOLE | WHOLE_AS_HUNDREDTHS else 10_000
    if amount_micros <= 0 or amount_micros % step:
        with pytest.raises(Refusal, match="amount-not-payable"):
            to_stripe_units(money)
    else:
        assert from_stripe_units(to_stripe_units(money), currency) == money


@pytest.mark.parametrize(("currency", "decimals"), [("USD", 2), ("KWD", 2), ("JPY", 0), ("ISK", 0), ("VND", 0)])
def test_an_amount_is_written_with_as_many_decimals_as_are_payable(currency: str, decimals: int) -> None:
    assert decimals_of(currency) == decimals
    assert to_stripe_units(Money(payable_micros(currency), currency)) > 0
    with pytest.raises(Refusal):
        to_stripe_units(Money(payable_micros(currency) // 2, currency))


def test_what_stripe_states_is_read_as_it_is() -> None:
    assert from_stripe_units(550, "isk") == Money(5_500_000, "ISK")
    assert from_stripe_units(5124, "kwd") == Money(5_124_000, "KWD")
    assert from_stripe_units(0, "usd") == Money(0, "USD")
    for unknown in ("HRK", "usdc", "", "XXX"):
        with pytest.raises(Refusal, match="currency-not-supported"):
            from_stripe_units(1, unknown)
    with pytest.raises(Refusal, match="currency-not-supported"):
        to_stripe_units(Money(1_000_000, "usd"))


def test_a_dong_is_one_unit_at_stripe_and_a_hundred_at_vnpay() -> None:
    money = Money(50_000_000_000, "VND")
    assert to_stripe_units(money) == 50_000
    assert to_vnpay_units(money) == 5_000_000
    assert from_vnpay_units(5_000_000) == money
    for refused in (Money(50_000_500_000, "VND"), Money(0, "VND"), Money(-1_000_000, "VND")):
        with pytest.raises(Refusal, match="amount-not-payable"):
            to_vnpay_units(refused)
    with pytest.raises(Refusal, match="currency-not-supported"):
        to_vnpay_units(Money(50_000_000, "USD"))


def test_limits_are_payable_amounts() -> None:
    for currency, least in STRIPE_LEAST.items():
        assert to_stripe_units(Money(parse_micros(least), currency)) > 0
    for currency in STRIPE_UNITS:
        most = Money(parse_micros(stripe_most(currency)), currency)
        assert to_stripe_units(most) > to_stripe_units(Money(parse_micros("10"), currency))
    stated = {currency: stripe_most(currency) for currency in ("USD", "IDR", "COP", "INR", "JPY", "ISK", "KWD")}
    assert stated == {
        "USD": "999999.99",
        "IDR": "9999999999.99",
        "COP": "99999999.99",
        "INR": "9999999.99",
        "JPY": "99999999.00",
        "ISK": "999999.00",
        "KWD": "99999.99",
    }
    assert to_vnpay_units(Money(parse_micros(VNPAY_LEAST), "VND")) == 500_000
    assert to_vnpay_units(Money(parse_micros(VNPAY_MOST), "VND")) == 99_999_999_900


def test_settings_begin_with_what_providers_publish() -> None:
    limits = PaymentSettings.model_validate({"database_url": "postgresql://x"}).limits
    assert (limits["stripe"]["USD"].min, limits["stripe"]["USD"].max) == ("0.50", "999999.99")
    assert (limits["stripe"]["JPY"].min, limits["stripe"]["CZK"].min) == ("50", "15.00")
    assert (limits["vnpay"]["VND"].min, limits["vnpay"]["VND"].max) == ("5000", "999999999")
    for provider, convert in (("stripe", to_stripe_units), ("vnpay", to_vnpay_units)):
        for currency, limit in limits[provider].items():
            least, most = parse_micros(limit.min), parse_micros(limit.max)
            assert least < most
            assert convert(Money(least, currency)) < convert(Money(most, currency))
