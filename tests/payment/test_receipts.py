"""Receipts say what was paid, in every currency, to every name, and the same for ever."""

from dataclasses import replace
from typing import Any

import pytest
from fpdf import FPDF
from hypothesis import given
from hypothesis import strategies as st

from services.payment.receipts.pdf import write_pdf
from services.payment.rules.conversion import format_rate
from services.payment.rules.currencies import decimals_of
from services.payment.rules.receipts import (
    Receipt,
    ReceiptMoney,
    Reversal,
    format_amount,
    receipt_number,
    receipt_rows,
)
from shared.clock import parse_instant

PAID_US = parse_instant("2026-11-24T08:15:30Z")
RECEIPT = Receipt(
    number="VN-2026-000042",
    issued_at_us=PAID_US,
    seller=("Example Cloud JSC", "12 Nguyễn Huệ, Quận 1"),
    payer_name="Trần Thị Ánh",
    payer_email="anh@example.com",
    region="vn",
    tenant_id="acme",
    order_id="8f14e45f",
    provider="Stripe",
    reference="pi_123",
    paid_at_us=PAID_US,
    paid=ReceiptMoney(50_000_000, "USD", 2),
    credit=ReceiptMoney(1_270_025_000_000, "VND", 0),
    rate_e12=25_400_500_000_000_000,
    rate_date="2026-11-23",
)


def test_the_lines_of_a_converted_payment() -> None:
    assert dict(receipt_rows(RECEIPT)) == {
        "Receipt": "VN-2026-000042",
        "Issued": "2026-11-24",
        "Paid by": "Trần Thị Ánh, anh@example.com",
        "Account": "vn/acme",
        "Paid on": "2026-11-24 08:15 UTC",
        "Paid with": "Stripe",
        "Provider's reference": "pi_123",
        "Order": "8f14e45f",
        "Amount paid": "50.00 USD",
        "Exchange rate": "1 USD = 25400.5 VND (2026-11-23)",
        "Credits bought": "1,270,025 VND",
    }


def test_a_payment_in_the_accounts_currency_names_no_rate_and_reversals_follow() -> None:
    money = ReceiptMoney(500_000_000_000, "VND", 0)
    reversal = Reversal("Refunded", PAID_US, ReceiptMoney(100_000_000_000, "VND", 0))
    rows = receipt_rows(
        replace(RECEIPT, paid=money, credit=money, payer_name="", payer_email="", reversals=(reversal,))
    )
    assert ("Paid by", "acme") in rows
    assert "Exchange rate" not in dict(rows)
    assert rows[-1] == ("Refunded on 2026-11-24", "-100,000 VND")


@pytest.mark.parametrize(
    ("amount_micros", "decimals", "text"),
    [
        (0, 2, "0.00"),
        (1, 0, "0.000001"),
        (1_500_000, 2, "1.50"),
        (1_500_000, 0, "1.5"),
        (-1_234_567_890_000, 3, "-1,234,567.890"),
        (12_345_678_000_000, 0, "12,345,678"),
    ],
)
def test_amounts_are_written_whole(amount_micros: int, decimals: int, text: str) -> None:
    assert format_amount(amount_micros, decimals) == text


@given(st.integers(-(10**18), 10**18), st.integers(0, 3))
def test_an_amount_reads_back(amount_micros: int, decimals: int) -> None:
    text = format_amount(amount_micros, decimals).replace(",", "")
    whole, _, fraction = text.removeprefix("-").partition(".")
    back = int(whole) * 1_000_000 + int(fraction.ljust(6, "0") or 0)
    assert back == abs(amount_micros)
    assert text.startswith("-") == (amount_micros < 0)
    assert len(fraction) >= decimals


def test_numbers_and_rates() -> None:
    assert receipt_number("jp", parse_instant("2026-12-31T23:59:59Z"), 7) == "JP-2026-000007"
    assert format_rate(10**12) == "1"
    assert [decimals_of(currency) for currency in ("USD", "VND", "JPY", "ISK", "UGX", "KWD")] == [2, 0, 0, 0, 0, 2]
    assert format_rate(39_370_078) == "0.000039370078"


def test_a_pdf_is_the_same_file_each_time() -> None:
    first = write_pdf(RECEIPT)
    assert first.startswith(b"%PDF-")
    assert first == write_pdf(RECEIPT)
    assert first != write_pdf(replace(RECEIPT, payer_name="Somebody Else"))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("山田 太郎", "山田 太郎"),
        ("김철수 王小明", "김철수 王小明"),
        ("Trần Thị Ánh", "Trần Thị Ánh"),
        ("محمد A 😀", "???? A ?"),
    ],
)
def test_every_character_of_a_name_is_set_or_seen_to_be_missing(
    name: str, shown: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Japanese names disappeared from the receipts of a Japanese region."""
    written: list[str] = []
    multi_cell = FPDF.multi_cell

    def listen(self: FPDF, *arguments: Any, **options: Any) -> Any:
        written.append(arguments[2])
        return multi_cell(self, *arguments, **options)

    monkeypatch.setattr(FPDF, "multi_cell", listen)
    document = write_pdf(replace(RECEIPT, payer_name=name))
    assert document == write_pdf(replace(RECEIPT, payer_name=name))
    assert f"{shown}, anh@example.com" in written
    assert "missing the following glyphs" not in caplog.text
