"""Money as integers of micros: a millionth of a currency unit. No float and no Decimal here.

Prices are strings of decimal digits (`"2.54"` per GPU and hour) and must be a whole number of micros.
"""

import re

MICROS = 1_000_000
HOUR_SECONDS = 3600
# PostgreSQL's bigint is the widest amount that any table holds.
AMOUNT_MICROS_MAX = 2**63 - 1

_DECIMAL = re.compile(r"(-?)(\d{1,13})(?:\.(\d+))?", re.ASCII)


class NotMoneyError(ValueError):
    """The text is no whole number of micros."""


def parse_micros(text: str) -> int:
    """Read a decimal string such as `"2.54"` as micros (2_540_000).

    Raises NotMoneyError for anything that is not a plain decimal number or has a part below one micro.
    """
    found = _DECIMAL.fullmatch(text)
    if found is None:
        raise NotMoneyError(f"{text!r} is not a decimal amount; write it like 2.54")
    sign, whole, fraction = found.group(1), found.group(2), found.group(3) or ""
    if fraction[6:].strip("0"):
        raise NotMoneyError(f"{text!r} is no whole number of micros; at most six decimals")
    micros = int(whole) * MICROS + int(fraction[:6].ljust(6, "0"))
    return -micros if sign else micros


def format_micros(amount_micros: int) -> str:
    """Write micros as a decimal string with at least two decimals: 2_540_000 is `"2.54"`."""
    whole, fraction = divmod(abs(amount_micros), MICROS)
    decimals = f"{fraction:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount_micros < 0 else ''}{whole}.{decimals}"


def cumulative_charge(slots: int, price_micros: int, slot_seconds: int) -> int:
    """What `slots` slots cost in all at `price_micros` an hour: rounded once, so that an hour costs its price.

    A line is the difference of two such values.
    """
    return slots * price_micros * slot_seconds // HOUR_SECONDS
