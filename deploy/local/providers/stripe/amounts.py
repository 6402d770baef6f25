"""What Stripe holds amounts against: minor units by currency, and a least charge."""

from deploy.local.providers.stripe.errors import ApiError

# Source: Stripe's documentation of supported currencies; ISK and UGX are sent with two decimals that must be 00.
_ZERO = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf"
_THREE = "bhd jod kwd omr tnd"
_TWO = """
    usd aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bmd bnd bob brl bsd bwp byn bzd cad cdf chf cny cop
    crc cve czk dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gtq gyd hkd hnl htg huf idr ils inr jmd kes kgs khr kyd
    kzt lak lbp lkr lrd lsl mad mdl mkd mmk mnt mop mur mvr mwk mxn myr mzn nad ngn nio nok npr nzd pab pen pgk php pkr
    pln qar ron rsd rub sar sbd scr sek sgd shp sle sos srd std szl thb tjs top try ttd twd tzs uah uyu uzs wst xcd yer
    zar zmw"""
ZERO_DECIMAL, THREE_DECIMAL = frozenset(_ZERO.split()), frozenset(_THREE.split())
WHOLE_ONLY = frozenset({"isk", "ugx"})
CURRENCIES = ZERO_DECIMAL | THREE_DECIMAL | WHOLE_ONLY | frozenset(_TWO.split())
_LEAST = {"usd": 50, "eur": 50, "gbp": 30, "jpy": 50, "cad": 50, "aud": 50, "sgd": 50, "chf": 50, "hkd": 400}
_DIGITS_MAX = 8


def check_amount(amount: int, currency: str, param: str) -> None:
    """Raise ApiError where Stripe would not charge `amount` minor units of `currency`."""
    if currency not in CURRENCIES:
        raise ApiError.invalid(f"Invalid currency: {currency}.", param="currency")
    if amount < 1:
        raise ApiError.invalid(
            "This value must be greater than or equal to 1.", param=param, code="parameter_invalid_integer"
        )
    if currency in WHOLE_ONLY and amount % 100:
        raise ApiError.invalid(f"Invalid amount: {currency} takes no decimals.", param=param)
    if currency in THREE_DECIMAL and amount % 10:
        raise ApiError.invalid(f"Invalid amount: the last digit of {currency} must be 0.", param=param)
    if amount < _LEAST.get(currency, 1):
        raise ApiError.invalid(
            f"Amount must be at least {_LEAST[currency]} of the smallest {currency} unit.",
            param=param,
            code="amount_too_small",
        )
    if len(str(amount)) > _DIGITS_MAX:
        raise ApiError.invalid(
            f"Amount must be no more than {_DIGITS_MAX} digits.", param=param, code="amount_too_large"
        )


def show(amount: int, currency: str) -> str:
    """An amount for people: "50.00 USD"."""
    decimals = 0 if currency in ZERO_DECIMAL else 3 if currency in THREE_DECIMAL else 2
    whole, part = divmod(amount, 10**decimals)
    return f"{whole:,}{f'.{part:0{decimals}d}' if decimals else ''} {currency.upper()}"
