"""What a receipt says. It is made of stored facts alone, so it reads the same for ever."""

from dataclasses import dataclass

from services.payment.rules.conversion import format_rate
from services.payment.rules.currencies import decimals_of
from shared.clock import DAY_US, format_instant, from_us
from shared.money import MICROS


@dataclass(frozen=True, slots=True)
class ReceiptMoney:
    """An amount with the number of decimals that its currency is written with."""

    amount_micros: int
    currency: str
    decimals: int

    def __str__(self) -> str:
        return f"{format_amount(self.amount_micros, self.decimals)} {self.currency}"


def receipt_money(amount_micros: int, currency: str) -> ReceiptMoney:
    return ReceiptMoney(amount_micros, currency, decimals_of(currency))


@dataclass(frozen=True, slots=True)
class Reversal:
    """Money that went back after the receipt was issued; shown on the page, never in place of the payment."""

    kind: str
    at_us: int
    money: ReceiptMoney


@dataclass(frozen=True, slots=True)
class Receipt:
    """One payment as its payer sees it. `rate_e12`: account per payment currency, times 10^12.

    It is None without an order, and where a person settled the payment otherwise than its order had agreed.
    """

    number: str
    issued_at_us: int
    seller: tuple[str, ...]
    payer_name: str
    payer_email: str
    region: str
    tenant_id: str
    order_id: str
    provider: str
    reference: str
    paid_at_us: int
    paid: ReceiptMoney
    credit: ReceiptMoney
    rate_e12: int | None
    rate_date: str | None
    reversals: tuple[Reversal, ...] = ()


def receipt_number(region: str, issued_at_us: int, ordinal: int) -> str:
    """A number such as VN-2026-000042: contiguous in its region and UTC year."""
    return f"{region.upper()}-{from_us(issued_at_us).year}-{ordinal:06d}"


def format_amount(amount_micros: int, decimals: int) -> str:
    """Group thousands and write at least `decimals` decimals, more only where the amount has them."""
    whole, fraction = divmod(abs(amount_micros), MICROS)
    digits = f"{fraction:06d}"
    shown = digits[:decimals] + digits[decimals:].rstrip("0")
    text = f"{whole:,}" + (f".{shown}" if shown else "")
    return f"-{text}" if amount_micros < 0 else text


def receipt_rows(receipt: Receipt) -> list[tuple[str, str]]:
    """The receipt's lines as (label, text), in order, for page and PDF alike."""
    rows = [
        ("Receipt", receipt.number),
        ("Issued", _date(receipt.issued_at_us)),
        ("Paid by", ", ".join(part for part in (receipt.payer_name, receipt.payer_email) if part) or receipt.tenant_id),
        ("Account", f"{receipt.region}/{receipt.tenant_id}"),
        ("Paid on", _moment(receipt.paid_at_us)),
        ("Paid with", receipt.provider),
        ("Provider's reference", receipt.reference),
        ("Order", receipt.order_id),
        ("Amount paid", str(receipt.paid)),
    ]
    if receipt.rate_e12 is not None and receipt.paid.currency != receipt.credit.currency:
        rate = f"1 {receipt.paid.currency} = {format_rate(receipt.rate_e12)} {receipt.credit.currency}"
        rows.append(("Exchange rate", f"{rate} ({receipt.rate_date})" if receipt.rate_date else rate))
    rows.append(("Credits bought", str(receipt.credit)))
    rows += [(f"{item.kind} on {_date(item.at_us)}", f"-{item.money}") for item in receipt.reversals]
    return rows


def _date(instant_us: int) -> str:
    return format_instant(instant_us - instant_us % DAY_US)[:10]


def _moment(instant_us: int) -> str:
    return from_us(instant_us).strftime("%Y-%m-%d %H:%M UTC")
