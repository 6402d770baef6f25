"""VNPay behind the port: what is asked over HTTP, and what answers are believed."""

import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from services.payment.providers import AskedOrder, PageOrder, ProviderRefusal, RefundOrder, SavedCharge
from services.payment.providers.vnpay import VnpayKeys, VnpayProvider, open_vnpay
from services.payment.rules.facts import Attempted, Declined, Fact, Money, Paid, Refunded, RefundFailed, SavedCard
from services.payment.rules.vnpay_messages import (
    QUERY_ANSWER_NAMES,
    QUERY_NAMES,
    REFUND_ANSWER_NAMES,
    REFUND_NAMES,
    txn_ref,
)
from services.payment.rules.vnpay_signature import is_piped_signed, is_signed, read_query, sign_piped
from services.payment.settings import PaymentSettings
from shared.clock import SECOND_US, FixedClock, parse_instant
from shared.errors import TransientFault
from shared.ids import fact_id

Answer = dict[str, object]

SECRETS = ("SECRETKEYONE", "SECRETKEYTWO")
ORDER_ID = fact_id("order", "vn", "acme", "key-1")
REFERENCE = txn_ref(ORDER_ID)
NOW_US = parse_instant("2026-11-24T08:30:00Z")
CREATED_US = parse_instant("2026-11-24T08:00:00Z")
DONG = Money(50_000_000_000, "VND")
ASKED = AskedOrder(ORDER_ID, "vn", "acme", DONG, CREATED_US, REFERENCE)
PAYMENT_ID = f"vnpay:{REFERENCE}:14422574"
REFUND = RefundOrder(
    "5f" * 16, "vn", ORDER_ID, PAYMENT_ID, Money(20_000_000_000, "VND"), DONG, CREATED_US, NOW_US, "ops anna"
)
PAID_ANSWER: Answer = {
    "vnp_ResponseCode": "00",
    "vnp_TransactionType": "01",
    "vnp_TransactionStatus": "00",
    "vnp_TransactionNo": "14422574",
    "vnp_Amount": "5000000",
    "vnp_PayDate": "20261124150500",
}


class Vnpay:
    """Answers with what the test laid ready for a command, signed; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.ready: dict[str, list[Answer | httpx.Response | Exception]] = {"querydr": [], "refund": []}
        self.secret = SECRETS[0]

    def lay(self, command: str, *answers: Answer | httpx.Response | Exception) -> None:
        self.ready[command] = list(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        fields = json.loads(request.content)
        self.asked.append(fields)
        command = fields["vnp_Command"]
        names = QUERY_NAMES if command == "querydr" else REFUND_NAMES
        assert is_piped_signed(fields, names, [SECRETS[0]]), "asked without a valid signature"
        assert set(fields) == {f"vnp_{name}" for name in names} | {"vnp_SecureHash"}
        answer = self.ready[command].pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        known = {"vnp_ResponseId": "a1", "vnp_Command": command, "vnp_TmnCode": "DEMOV210", "vnp_TxnRef": REFERENCE}
        body = {**known, **answer}
        signed = QUERY_ANSWER_NAMES if command == "querydr" else REFUND_ANSWER_NAMES
        return httpx.Response(200, json={"vnp_SecureHash": sign_piped(body, signed, self.secret)} | body)


@pytest.fixture
def vnpay() -> Vnpay:
    return Vnpay()


@pytest.fixture
async def provider(vnpay: Vnpay) -> AsyncIterator[VnpayProvider]:
    opened = VnpayProvider(
        VnpayKeys("DEMOV210", SECRETS),
        FixedClock(NOW_US),
        httpx.AsyncClient(transport=httpx.MockTransport(vnpay)),
        pay_url="https://vnpay.test/paymentv2/vpcpay.html",
        api_url="https://vnpay.test/merchant_webapi/api/transaction",
    )
    yield opened
    await opened.close()


def page_order(**changed: str) -> PageOrder:
    return PageOrder(
        ORDER_ID,
        "vn",
        "acme",
        DONG,
        CREATED_US,
        CREATED_US + 3600 * SECOND_US,
        "https://pay.example.com",
        "a1b2",
        changed.get("payer_ip", "203.0.113.9"),
        locale="vi",
        email="an@example.com",
    )


async def test_a_page_is_a_signed_url_and_the_same_for_the_same_order(provider: VnpayProvider) -> None:
    page = await provider.open_page(page_order())
    assert page == await provider.open_page(page_order())
    assert page.reference == REFERENCE
    address = urlsplit(page.url)
    assert f"{address.scheme}://{address.netloc}{address.path}" == "https://vnpay.test/paymentv2/vpcpay.html"
    assert address.query.rpartition("&")[2].startswith("vnp_SecureHash=")
    fields = read_query(address.query)
    assert is_signed(fields, [SECRETS[0]])
    assert fields["vnp_ReturnUrl"] == "https://pay.example.com/return/vnpay"
    assert (fields["vnp_Amount"], fields["vnp_TxnRef"]) == ("5000000", REFERENCE)
    assert "example.com%40" not in page.url
    assert "an%40" not in page.url


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::1", "0000:0000:0000:0000:0000:0000:0000:0001"),
        ("testclient", "0.0.0.0"),
        ("", "0.0.0.0"),
    ],
)
async def test_an_address_has_seven_characters_at_least(provider: VnpayProvider, given: str, sent: str) -> None:
    page = await provider.open_page(page_order(payer_ip=given))
    assert dict(parse_qsl(urlsplit(page.url).query))["vnp_IpAddr"] == sent


@pytest.mark.parametrize(
    ("answer", "facts"),
    [
        (PAID_ANSWER, [Paid(ORDER_ID, PAYMENT_ID, DONG, parse_instant("2026-11-24T08:05:00Z"), None, "14422574")]),
        (PAID_ANSWER | {"vnp_TransactionStatus": "01"}, [Attempted(ORDER_ID, "vnpay-00-01")]),
        (PAID_ANSWER | {"vnp_TransactionStatus": "02"}, [Declined(ORDER_ID, "vnpay-00-02", final=True)]),
        (PAID_ANSWER | {"vnp_TransactionStatus": "07"}, [Attempted(ORDER_ID, "vnpay-00-07")]),
        (PAID_ANSWER | {"vnp_TransactionType": "02"}, [Attempted(ORDER_ID, "vnpay-refund-00")]),
        ({"vnp_ResponseCode": "91", "vnp_Message": "Not found"}, []),
    ],
)
async def test_querydr_is_believed(provider: VnpayProvider, vnpay: Vnpay, answer: Answer, facts: list[Fact]) -> None:
    vnpay.lay("querydr", answer)
    assert await provider.look_up(ASKED) == facts
    [asked] = vnpay.asked
    assert (asked["vnp_TransactionDate"], asked["vnp_CreateDate"]) == ("20261124150000", "20261124153000")


async def test_every_question_has_an_id_of_its_own(provider: VnpayProvider, vnpay: Vnpay) -> None:
    vnpay.lay("querydr", PAID_ANSWER, PAID_ANSWER)
    assert await provider.look_up(ASKED) == await provider.look_up(ASKED)
    ids = {asked["vnp_RequestId"] for asked in vnpay.asked}
    assert len(ids) == 2
    assert all(len(found) == 32 and found.isalnum() for found in ids)


@pytest.mark.parametrize(
    "answer",
    [
        PAID_ANSWER | {"vnp_SecureHash": "0" * 128},
        PAID_ANSWER | {"vnp_SecureHash": None},
        {"vnp_ResponseCode": "91", "vnp_SecureHash": ""},
        PAID_ANSWER | {"vnp_TxnRef": "ff" * 16},
        PAID_ANSWER | {"vnp_TmnCode": "ANOTHER1"},
        PAID_ANSWER | {"vnp_Amount": "many"},
        {"vnp_ResponseCode": "94"},
        {"vnp_ResponseCode": "99"},
        {"vnp_ResponseCode": None},
        httpx.Response(500, text="oops"),
        httpx.Response(302, headers={"location": "https://elsewhere.test"}),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=["no", "object"]),
        httpx.ReadTimeout("slow"),
        httpx.ConnectError("refused"),
    ],
)
async def test_what_is_no_clear_answer_is_asked_again(
    provider: VnpayProvider, vnpay: Vnpay, answer: Answer | httpx.Response | Exception
) -> None:
    vnpay.lay("querydr", answer)
    with pytest.raises(TransientFault):
        await provider.look_up(ASKED)


async def test_an_answer_may_be_signed_with_an_older_secret(provider: VnpayProvider, vnpay: Vnpay) -> None:
    vnpay.secret = SECRETS[1]
    vnpay.lay("querydr", PAID_ANSWER)
    assert len(await provider.look_up(ASKED)) == 1


@pytest.mark.parametrize("code", ["02", "03", "95", "97"])
async def test_a_refusal_tells_its_code(provider: VnpayProvider, vnpay: Vnpay, code: str) -> None:
    vnpay.lay("querydr", {"vnp_ResponseCode": code})
    vnpay.lay("refund", {"vnp_ResponseCode": code})
    for question in (provider.look_up(ASKED), provider.refund(REFUND)):
        with pytest.raises(ProviderRefusal, match=f"vnpay-{code}"):
            await question


@pytest.mark.parametrize(
    ("status", "fact"),
    [
        ("05", Refunded(PAYMENT_ID, f"vnpay:{'5f' * 16}", REFUND.money, "pending")),
        ("06", Refunded(PAYMENT_ID, f"vnpay:{'5f' * 16}", REFUND.money, "pending")),
        ("00", Refunded(PAYMENT_ID, f"vnpay:{'5f' * 16}", REFUND.money, "succeeded")),
        ("09", RefundFailed(PAYMENT_ID, f"vnpay:{'5f' * 16}", REFUND.money, "vnpay-09")),
    ],
)
async def test_a_refund_is_asked_for(provider: VnpayProvider, vnpay: Vnpay, status: str, fact: Fact) -> None:
    vnpay.lay("refund", {"vnp_ResponseCode": "00", "vnp_TransactionStatus": status})
    assert await provider.refund(REFUND) == fact
    [asked] = vnpay.asked
    assert asked | {"vnp_SecureHash": ""} == {
        "vnp_RequestId": "5f" * 16,
        "vnp_Version": "2.1.0",
        "vnp_Command": "refund",
        "vnp_TmnCode": "DEMOV210",
        "vnp_TransactionType": "03",
        "vnp_TxnRef": REFERENCE,
        "vnp_Amount": "2000000",
        "vnp_TransactionNo": "14422574",
        "vnp_TransactionDate": "20261124150000",
        "vnp_CreateBy": "ops-anna",
        "vnp_CreateDate": "20261124153000",
        "vnp_IpAddr": "127.0.0.1",
        "vnp_OrderInfo": "refund-" + "5f" * 16,
        "vnp_SecureHash": "",
    }


async def test_all_of_a_payment_is_a_full_refund(provider: VnpayProvider, vnpay: Vnpay) -> None:
    vnpay.lay("refund", {"vnp_ResponseCode": "00", "vnp_TransactionStatus": "05"})
    whole = RefundOrder("5f" * 16, "vn", ORDER_ID, PAYMENT_ID, DONG, DONG, CREATED_US, NOW_US, "ops")
    await provider.refund(whole)
    assert vnpay.asked[0]["vnp_TransactionType"] == "02"


async def test_an_unsigned_refund_is_not_believed(provider: VnpayProvider, vnpay: Vnpay) -> None:
    vnpay.lay("refund", {"vnp_ResponseCode": "00", "vnp_TransactionStatus": "05", "vnp_SecureHash": "0" * 128})
    with pytest.raises(TransientFault):
        await provider.refund(REFUND)


async def test_a_refund_whose_answer_was_lost_is_recognised(provider: VnpayProvider, vnpay: Vnpay) -> None:
    """VNPay answers a repeat with 94; querydr tells whether it is this refund that is under way."""
    vnpay.lay("refund", {"vnp_ResponseCode": "94"})
    vnpay.lay("querydr", PAID_ANSWER | {"vnp_TransactionType": "03", "vnp_Amount": "2000000"})
    assert await provider.refund(REFUND) == Refunded(PAYMENT_ID, f"vnpay:{'5f' * 16}", REFUND.money, "pending")


@pytest.mark.parametrize(
    "told",
    [
        PAID_ANSWER,
        PAID_ANSWER | {"vnp_TransactionType": "03", "vnp_Amount": "100"},
        {"vnp_ResponseCode": "91"},
    ],
)
async def test_another_refund_under_way_is_not_taken_for_this_one(
    provider: VnpayProvider, vnpay: Vnpay, told: Answer
) -> None:
    vnpay.lay("refund", {"vnp_ResponseCode": "94"})
    vnpay.lay("querydr", told)
    with pytest.raises(TransientFault):
        await provider.refund(REFUND)


async def test_what_vnpay_does_not_offer(provider: VnpayProvider, vnpay: Vnpay) -> None:
    charge = SavedCharge("1", ORDER_ID, "vn", "acme", DONG, SavedCard("c", "m"))
    with pytest.raises(ProviderRefusal, match="not-offered"):
        await provider.charge_saved(charge)
    await provider.expire(ASKED)
    assert [event async for event in provider.list_events(0)] == []
    assert vnpay.asked == []


@pytest.mark.parametrize("fault", [httpx.ReadTimeout("slow"), {"vnp_ResponseCode": "97"}])
async def test_no_secret_in_an_error_or_log(
    provider: VnpayProvider, vnpay: Vnpay, fault: Answer | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    vnpay.lay("querydr", fault)
    with pytest.raises((TransientFault, ProviderRefusal)) as caught:
        await provider.look_up(ASKED)
    told = repr(caught.value) + repr(provider._keys) + caplog.text
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    for secret in (*SECRETS, vnpay.asked[0]["vnp_SecureHash"]):
        assert secret not in told


def settings(**given: object) -> PaymentSettings:
    return PaymentSettings.model_validate({"database_url": "postgresql://x"} | given)


async def test_vnpay_is_offered_only_with_keys() -> None:
    clock = FixedClock(NOW_US)
    assert open_vnpay(settings(), clock) is None
    assert open_vnpay(settings(vnpay_tmn_code="DEMOV210"), clock) is None
    opened = open_vnpay(settings(vnpay_tmn_code="DEMOV210", vnpay_hash_secrets=["s"]), clock)
    assert opened is not None
    await opened.close()


REFUNDED_ANSWER = PAID_ANSWER | {"vnp_TransactionType": "03", "vnp_Amount": "2000000", "vnp_TransactionStatus": "05"}


@pytest.mark.parametrize(
    ("answer", "is_only", "fact"),
    [
        (PAID_ANSWER, True, None),
        ({"vnp_ResponseCode": "91"}, True, None),
        (REFUNDED_ANSWER, True, Refunded(PAYMENT_ID, f"vnpay:{'5f' * 16}", REFUND.money, "pending")),
        (
            REFUNDED_ANSWER | {"vnp_OrderInfo": "refund-" + "5f" * 16},
            False,
            Refunded(PAYMENT_ID, f"vnpay:{'5f' * 16}", REFUND.money, "pending"),
        ),
    ],
)
async def test_a_lost_refund_is_recognised(
    provider: VnpayProvider, vnpay: Vnpay, answer: Answer, *, is_only: bool, fact: Fact | None
) -> None:
    vnpay.lay("querydr", answer)
    assert await provider.find_refund(replace(REFUND, is_only=is_only)) == fact


@pytest.mark.parametrize(("answer", "is_only"), [({"vnp_Amount": "1000000"}, True), ({}, False)])
async def test_another_refund_may_hide_it_and_a_person_must_look(
    provider: VnpayProvider, vnpay: Vnpay, answer: Answer, *, is_only: bool
) -> None:
    vnpay.lay("querydr", REFUNDED_ANSWER | answer)
    with pytest.raises(TransientFault, match="look there"):
        await provider.find_refund(replace(REFUND, is_only=is_only))


async def test_a_refund_that_is_known_by_its_name_hides_none(provider: VnpayProvider, vnpay: Vnpay) -> None:
    vnpay.lay("querydr", REFUNDED_ANSWER | {"vnp_OrderInfo": "refund-" + "4e" * 16})
    assert await provider.find_refund(replace(REFUND, known=frozenset({f"vnpay:{'4e' * 16}"}))) is None


async def test_a_refund_whose_request_was_lost_is_found_by_its_name_with_its_amount(
    provider: VnpayProvider, vnpay: Vnpay
) -> None:
    vnpay.lay("querydr", REFUNDED_ANSWER | {"vnp_Amount": "1500000", "vnp_OrderInfo": "refund-" + "5f" * 16})
    found = await provider.find_refund(replace(REFUND, order_id="", known=frozenset({f"vnpay:{'5f' * 16}"})))
    assert found == Refunded(PAYMENT_ID, f"vnpay:{'5f' * 16}", Money(15_000_000_000, "VND"), "pending")
    assert PAYMENT_ID.split(":")[1] == vnpay.asked[-1]["vnp_TxnRef"]


async def test_a_payment_of_a_lost_order_that_vnpay_does_not_find_is_a_persons_to_look(
    provider: VnpayProvider, vnpay: Vnpay
) -> None:
    vnpay.lay("querydr", {"vnp_ResponseCode": "91"})
    with pytest.raises(TransientFault, match="look there"):
        await provider.find_refund(replace(REFUND, order_id=""))


def test_a_request_is_remembered_for_its_day_in_vietnam(provider: VnpayProvider) -> None:
    evening = parse_instant("2026-11-24T16:59:00Z")
    assert provider.remembers(evening - 3600 * SECOND_US, evening)
    assert not provider.remembers(evening, evening + 120 * SECOND_US)
