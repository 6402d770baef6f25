"""VNPay's messages, version 2.1.0: what is asked of it and what its answers mean.

Sources: its guides to pay, querydr and refund. Fields keep VNPay's names. Amounts are dong times 100; dates are
yyyyMMddHHmmss in Vietnam's time.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

from services.payment.rules.currencies import from_vnpay_units, to_vnpay_units
from services.payment.rules.facts import Attempted, Declined, Money, OrderFact, Paid
from shared.clock import from_us, to_us
from shared.money import AMOUNT_MICROS_MAX

VERSION: Final = "2.1.0"


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


# What is signed, without "vnp_", in VNPay's order.
QUERY_NAMES: Final = _names("RequestId|Version|Command|TmnCode|TxnRef|TransactionDate|CreateDate|IpAddr|OrderInfo")
QUERY_ANSWER_NAMES: Final = _names(
    "ResponseId|Command|ResponseCode|Message|TmnCode|TxnRef|Amount|BankCode|PayDate|TransactionNo|TransactionType|"
    "TransactionStatus|OrderInfo|PromotionCode|PromotionAmount"
)
REFUND_NAMES: Final = _names(
    "RequestId|Version|Command|TmnCode|TransactionType|TxnRef|Amount|TransactionNo|TransactionDate|CreateBy|"
    "CreateDate|IpAddr|OrderInfo"
)
REFUND_ANSWER_NAMES: Final = QUERY_ANSWER_NAMES[:-2]

# Its zone by name: "Etc/GMT+7" is seven hours behind UTC, not ahead.
_VIETNAM = ZoneInfo("Asia/Ho_Chi_Minh")
_DATE = "%Y%m%d%H%M%S"
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_-]+", re.ASCII)
_DIGITS = re.compile(r"\d{1,18}", re.ASCII)
_DATE_DIGITS = re.compile(r"\d{14}", re.ASCII)
_CODE = re.compile(r"[A-Za-z0-9]{1,4}", re.ASCII)
_ORDER_HEX = re.compile(r"[0-9a-f]{32}", re.ASCII)
_ORDER_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_PLAIN_MAX = 255

_OK = "00"
_STATUS_ERROR = "02"
# The customer was debited and VNPay is not sure that it was the customer.
_RESPONSE_SUSPICIOUS = "07"


class NotVnpayMessageError(ValueError):
    """A signed message without the fields that it must have. Its text names fields, never values."""


@dataclass(frozen=True, slots=True)
class PayRequest:
    """A page to be opened."""

    tmn_code: str
    order_id: str
    money: Money
    created_at_us: int
    expires_at_us: int
    payer_ip: str
    locale: str | None
    return_url: str
    bank_code: str | None


@dataclass(frozen=True, slots=True)
class Result:
    """What VNPay says of one attempt; `order_id` is None where TxnRef is none of ours."""

    txn_ref: str
    order_id: str | None
    transaction_no: str
    response_code: str
    transaction_status: str
    money: Money
    paid_at_us: int | None

    @property
    def event_id(self) -> str:
        return f"{self.txn_ref}:{self.transaction_no}:{self.response_code}:{self.transaction_status}"

    @property
    def payment_id(self) -> str:
        return f"vnpay:{self.txn_ref}:{self.transaction_no}"


def write_date(instant_us: int) -> str:
    """An instant as yyyyMMddHHmmss in Vietnam; below a second is cut off."""
    return from_us(instant_us).astimezone(_VIETNAM).strftime(_DATE)


def read_date(text: str) -> int:
    """The instant that yyyyMMddHHmmss in Vietnam names. Raises NotVnpayMessageError."""
    if not _DATE_DIGITS.fullmatch(text):
        raise NotVnpayMessageError("a date is not of fourteen digits")
    try:
        return to_us(datetime.strptime(text, _DATE).replace(tzinfo=_VIETNAM).astimezone(UTC))
    except (ValueError, OverflowError):
        raise NotVnpayMessageError("a date is no possible date") from None


def txn_ref(order_id: str) -> str:
    """The order's reference, unique for ever: its id without dashes."""
    if not _ORDER_ID.fullmatch(order_id):
        raise ValueError(f"{order_id!r} is no order's id")
    return order_id.replace("-", "")


def order_of(reference: str) -> str | None:
    """The order that a TxnRef names, or None where it is none of ours."""
    if not _ORDER_HEX.fullmatch(reference):
        return None
    parts = (reference[:8], reference[8:12], reference[12:16], reference[16:20], reference[20:])
    return "-".join(parts)


def plain(text: str) -> str:
    """Text as VNPay takes it: [A-Za-z0-9_-]. What is not is one "-", however much of it stands together."""
    return _NOT_PLAIN.sub("-", text)[:_PLAIN_MAX].strip("-") or "-"


def pay_fields(request: PayRequest) -> dict[str, str]:
    """The fields of a pay URL. Raises Refusal for what VNPay can't take."""
    reference = txn_ref(request.order_id)
    fields = {
        "vnp_Version": VERSION,
        "vnp_Command": "pay",
        "vnp_TmnCode": request.tmn_code,
        "vnp_Amount": str(to_vnpay_units(request.money)),
        "vnp_CreateDate": write_date(request.created_at_us),
        "vnp_ExpireDate": write_date(request.expires_at_us),
        "vnp_CurrCode": "VND",
        "vnp_IpAddr": request.payer_ip,
        "vnp_Locale": "vn" if (request.locale or "").lower()[:2] in {"vi", "vn"} else "en",
        "vnp_OrderInfo": plain(f"top-up-{request.order_id}"),
        "vnp_OrderType": "other",
        "vnp_ReturnUrl": request.return_url,
        "vnp_TxnRef": reference,
    }
    if request.bank_code:
        fields["vnp_BankCode"] = plain(request.bank_code)
    return fields


def read_result(fields: Mapping[str, object]) -> Result:
    """The result in a callback or in querydr's answer, its signature already checked. Raises NotVnpayMessageError."""
    reference = _text(fields, "TxnRef")
    amount = _text(fields, "Amount")
    response_code, status = _text(fields, "ResponseCode"), _text(fields, "TransactionStatus")
    if not reference or len(reference) > 100 or not reference.isascii() or not reference.isprintable():
        raise NotVnpayMessageError("vnp_TxnRef is missing or of no known form")
    if not _DIGITS.fullmatch(amount):
        raise NotVnpayMessageError("vnp_Amount is no number")
    if not _CODE.fullmatch(response_code) or not _CODE.fullmatch(status):
        raise NotVnpayMessageError("vnp_ResponseCode or vnp_TransactionStatus is missing")
    number = _text(fields, "TransactionNo")
    if number and not _DIGITS.fullmatch(number):
        raise NotVnpayMessageError("vnp_TransactionNo is no number")
    if (response_code, status) == (_OK, _OK) and not number.strip("0"):
        raise NotVnpayMessageError("a payment without vnp_TransactionNo")
    paid_at = _text(fields, "PayDate")
    return Result(
        txn_ref=reference,
        order_id=order_of(reference),
        transaction_no=number or "0",
        response_code=response_code,
        transaction_status=status,
        money=_money(amount),
        paid_at_us=read_date(paid_at) if paid_at else None,
    )


def fact_of(result: Result, received_at_us: int) -> OrderFact | None:
    """What a result means for its order; None where it names none of ours.

    Money is received only if both codes are "00". Refused for good is only what VNPay closed as an error without a
    suspicion: in everything else the money may be under way, or held at the bank.
    """
    if result.order_id is None:
        return None
    codes = (result.response_code, result.transaction_status)
    if codes == (_OK, _OK):
        at_us = received_at_us if result.paid_at_us is None else result.paid_at_us
        return Paid(result.order_id, result.payment_id, result.money, at_us, None, result.transaction_no)
    if result.transaction_status == _STATUS_ERROR and result.response_code != _RESPONSE_SUSPICIOUS:
        return Declined(result.order_id, f"vnpay-{result.response_code}-{result.transaction_status}", final=True)
    return Attempted(result.order_id, f"vnpay-{result.response_code}-{result.transaction_status}")


def _money(amount: str) -> Money:
    """Raises NotVnpayMessageError for what no order can be of."""
    money = from_vnpay_units(int(amount))
    if not 0 < money.amount_micros <= AMOUNT_MICROS_MAX:
        raise NotVnpayMessageError("vnp_Amount is no amount that an account can hold")
    return money


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(f"vnp_{name}")
    return "" if value is None else str(value)
