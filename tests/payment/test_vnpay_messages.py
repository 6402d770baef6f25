"""What VNPay's codes and dates mean, and what it is sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.payment.providers.vnpay import read_callback
from services.payment.rules.facts import Attempted, Declined, Money, Paid
from services.payment.rules.vnpay_messages import (
    NotVnpayMessageError,
    PayRequest,
    order_of,
    pay_fields,
    plain,
    read_date,
    read_result,
    txn_ref,
    write_date,
)
from services.payment.rules.vnpay_signature import sign_query
from shared.clock import SECOND_US, parse_instant
from shared.errors import Refusal
from shared.ids import fact_id
from shared.money import AMOUNT_MICROS_MAX

ORDER_ID = fact_id("order", "vn", "acme", "key-1")
REFERENCE = txn_ref(ORDER_ID)
RECEIVED_US = parse_instant("2026-11-24T08:10:00Z")
RESULT = {
    "vnp_Amount": "5000000",
    "vnp_PayDate": "20261124150500",
    "vnp_ResponseCode": "00",
    "vnp_TransactionNo": "14422574",
    "vnp_TransactionStatus": "00",
    "vnp_TxnRef": REFERENCE,
}


def callback(**changed: str) -> str:
    return sign_query(RESULT | {f"vnp_{name}": value for name, value in changed.items()}, "secret")


def test_a_success_is_paid() -> None:
    notice = read_callback(callback(), ["secret"], RECEIVED_US)
    money = Money(50_000_000_000, "VND")
    at_us = parse_instant("2026-11-24T08:05:00Z")
    payment_id = f"vnpay:{REFERENCE}:14422574"
    assert notice.facts == (Paid(ORDER_ID, payment_id, money, at_us, None, "14422574"),)
    assert (notice.order_id, notice.region, notice.money) == (ORDER_ID, None, money)
    assert notice.event_id == f"{REFERENCE}:14422574:00:00"


def test_a_success_without_its_time_is_paid_when_it_was_received() -> None:
    [fact] = read_callback(callback(PayDate=""), ["secret"], RECEIVED_US).facts
    assert isinstance(fact, Paid)
    assert fact.at_us == RECEIVED_US


STATUSES = ("00", "01", "02", "04", "05", "06", "07", "09")
CODES = ("00", "07", "09", "10", "11", "12", "13", "24", "51", "65", "75", "79", "99")


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("code", CODES)
def test_money_is_received_only_if_both_codes_say_so(code: str, status: str) -> None:
    query = callback(ResponseCode=code, TransactionStatus=status)
    [fact] = read_callback(query, ["secret"], RECEIVED_US).facts
    assert isinstance(fact, Paid) == (code == status == "00")
    # Refused for good is only an error that is no suspicion: there the customer's money was taken.
    assert isinstance(fact, Declined) == (status == "02" and code != "07")
    if isinstance(fact, Declined):
        assert fact == Declined(ORDER_ID, f"vnpay-{code}-02", final=True)
    elif isinstance(fact, Attempted):
        assert fact == Attempted(ORDER_ID, f"vnpay-{code}-{status}")


def test_a_reference_of_somebody_else_names_no_order() -> None:
    for reference in ("1716257871703", REFERENCE.upper(), REFERENCE + "0"):
        notice = read_callback(callback(TxnRef=reference), ["secret"], RECEIVED_US)
        assert (notice.order_id, notice.facts) == (None, ())


@pytest.mark.parametrize(
    "changed",
    [
        {"TxnRef": ""},
        {"TxnRef": "x" * 101},
        {"Amount": ""},
        {"Amount": "0"},
        {"Amount": "9" * 18},
        {"Amount": "-5"},
        {"Amount": "5.5"},
        {"Amount": "٣"},
        {"ResponseCode": ""},
        {"TransactionStatus": ""},
        {"TransactionNo": ""},
        {"TransactionNo": "0"},
        {"TransactionNo": "x"},
        {"PayDate": "2026112415050"},
        {"PayDate": "20261324150500"},
    ],
)
def test_a_signed_callback_without_what_it_must_have_is_unreadable(changed: dict[str, str]) -> None:
    notice = read_callback(callback(**changed), ["secret"], RECEIVED_US)
    assert (notice.facts, notice.order_id, notice.event_id[:11]) == ((), None, "unreadable:")
    assert notice.problem is not None
    assert all(value not in notice.problem for value in changed.values() if len(value) > 1)


@given(st.dictionaries(st.sampled_from(sorted(RESULT)), st.text(max_size=20) | st.integers() | st.none()))
def test_no_answer_breaks_the_reader(changed: dict[str, object]) -> None:
    try:
        result = read_result(RESULT | changed)
    except NotVnpayMessageError:
        return
    assert result.money.currency == "VND"
    assert 0 < result.money.amount_micros <= AMOUNT_MICROS_MAX


def test_dates_are_in_vietnam() -> None:
    """Seven hours ahead of UTC; the zone "Etc/GMT+7" is seven hours behind."""
    assert write_date(parse_instant("2026-12-31T17:00:00Z")) == "20270101000000"
    assert read_date("20270101000000") == parse_instant("2026-12-31T17:00:00Z")


@given(st.integers(0, 4 * 10**15))
def test_dates_come_back(instant_us: int) -> None:
    if instant_us >= parse_instant("1976-01-01T00:00:00Z"):  # the north and the south had clocks of their own before
        assert read_date(write_date(instant_us)) == instant_us // SECOND_US * SECOND_US


@given(st.text())
def test_an_order_has_one_reference(key: str) -> None:
    order_id = fact_id("order", "vn", "acme", key)
    reference = txn_ref(order_id)
    assert reference.isalnum()
    assert len(reference) == 32
    assert order_of(reference) == order_id


def test_only_orders_have_references() -> None:
    with pytest.raises(ValueError, match="no order's id"):
        txn_ref("order-1")


@given(st.text())
def test_free_text_is_plain(text: str) -> None:
    assert set(plain(text)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
    assert 1 <= len(plain(text)) <= 255


def request(money: Money, **changed: str) -> PayRequest:
    return PayRequest(
        tmn_code="DEMOV210",
        order_id=ORDER_ID,
        money=money,
        created_at_us=RECEIVED_US,
        expires_at_us=RECEIVED_US + 3600 * SECOND_US,
        payer_ip="203.0.113.9",
        locale=changed.get("locale"),
        return_url="https://pay.example.com/return/vnpay",
        bank_code=changed.get("bank_code"),
    )


def test_only_whole_dong_can_be_asked_for() -> None:
    for refused in (Money(50_000_500_000, "VND"), Money(50_000_000, "USD"), Money(0, "VND")):
        with pytest.raises(Refusal):
            pay_fields(request(refused))
    dong = Money(50_000_000_000, "VND")
    assert pay_fields(request(dong, locale="ja"))["vnp_Locale"] == "en"
    assert "vnp_BankCode" not in pay_fields(request(dong))
    assert pay_fields(request(dong, bank_code="VNPAYQR"))["vnp_BankCode"] == "VNPAYQR"
    assert "vnp_SecureHashType" not in pay_fields(request(dong))
