"""The stand-in of VNPay by itself. Hashes are computed here anew: neither payment nor the stand-in is trusted."""

import hashlib
import hmac
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlsplit
from zoneinfo import ZoneInfo

import pytest

from deploy.local.providers.vnpay.signing import query_hash
from shared.clock import MINUTE_US, SECOND_US, from_us
from tests.standins.alone import VNPAY_CODE, VNPAY_SECRET, Standin
from tests.support.infrastructure import temporary_home
from tests.system.waiting import wait_for

pytestmark = pytest.mark.process
ZONE = ZoneInfo("Asia/Ho_Chi_Minh")
CONFIRMED = '{"RspCode":"00","Message":"Confirm Success"}'
QUERY = ("RequestId", "Version", "Command", "TmnCode", "TxnRef", "TransactionDate", "CreateDate", "IpAddr", "OrderInfo")
REFUND = (
    *("RequestId", "Version", "Command", "TmnCode", "TransactionType", "TxnRef", "Amount", "TransactionNo"),
    *("TransactionDate", "CreateBy", "CreateDate", "IpAddr", "OrderInfo"),
)
REFUND_ANSWER = (
    *("ResponseId", "Command", "ResponseCode", "Message", "TmnCode", "TxnRef", "Amount", "BankCode", "PayDate"),
    *("TransactionNo", "TransactionType", "TransactionStatus", "OrderInfo"),
)
QUERY_ANSWER = (*REFUND_ANSWER, "PromotionCode", "PromotionAmount")


@pytest.fixture(scope="module")
def running() -> Iterator[Standin]:
    with temporary_home() as home, Standin("vnpay", home) as standin:
        yield standin


@pytest.fixture
def standin(running: Standin) -> Standin:
    running.merchant.answers = [(200, CONFIRMED)]
    wait_for(lambda: not running.callbacks("waiting"), what="quiet")
    return running


def hashed(text: str, secret: str = VNPAY_SECRET) -> str:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha512).hexdigest()


def local_date(standin: Standin, minutes: int = 0) -> str:
    return from_us(standin.clock.now_us() + minutes * MINUTE_US).astimezone(ZONE).strftime("%Y%m%d%H%M%S")


def pay_query(standin: Standin, reference: str, secret: str = VNPAY_SECRET, **changes: str) -> str:
    """A pay URL's query, signed; a changed field of "" is left out."""
    fields = {
        "Version": "2.1.0",
        "Command": "pay",
        "TmnCode": VNPAY_CODE,
        "Amount": "10000000",
        "CreateDate": local_date(standin),
        "ExpireDate": local_date(standin, 15),
        "CurrCode": "VND",
        "IpAddr": "203.0.113.7",
        "Locale": "vn",
        "OrderInfo": "credits of An",
        "OrderType": "other",
        "ReturnUrl": f"{standin.merchant.url}/return/vnpay",
        "TxnRef": reference,
    } | changes
    text = "&".join(f"vnp_{name}={quote_plus(value)}" for name, value in sorted(fields.items()) if value)
    return f"{text}&vnp_SecureHash={hashed(text, secret)}"


def open_page(standin: Standin, reference: str, **changes: str) -> str:
    """Open an order's page; answers its CreateDate."""
    page = standin.http.get(f"/paymentv2/vpcpay.html?{pay_query(standin, reference, **changes)}")
    assert page.status_code == 200, page.text
    assert "100,000 VND" in page.text
    return local_date(standin)


def click(standin: Standin, reference: str, code: str = "00") -> dict[str, str]:
    """Press a button of the page; answers what the browser carries back, its hash checked."""
    back = standin.http.post(f"/paymentv2/pay/{reference}", data={"code": code})
    assert back.status_code == 303, back.text
    assert back.headers["location"].startswith(f"{standin.merchant.url}/return/vnpay?")
    return check_result(urlsplit(back.headers["location"]).query)


def check_result(query: str) -> dict[str, str]:
    text, _, given = query.partition("&vnp_SecureHash=")
    assert given == hashed(text)
    assert text == "&".join(sorted(text.split("&")))
    return dict(parse_qsl(query))


_request_number = iter(range(1_000_000))


def ask(standin: Standin, names: tuple[str, ...], answer_names: tuple[str, ...], **fields: str) -> dict[str, str]:
    """Send querydr or refund; answers the answer, its hash checked."""
    common = {
        "RequestId": f"request{next(_request_number)}",
        "Version": "2.1.0",
        "TmnCode": VNPAY_CODE,
        "CreateDate": local_date(standin),
        "IpAddr": "203.0.113.7",
        "OrderInfo": "question",
    } | fields
    body = {f"vnp_{name}": value for name, value in common.items()}
    body.setdefault("vnp_SecureHash", hashed("|".join(common.get(name, "") for name in names)))
    answer: dict[str, str] = standin.http.post("/merchant_webapi/api/transaction", json=body).json()
    assert answer["vnp_SecureHash"] == hashed("|".join(answer.get(f"vnp_{name}", "") for name in answer_names))
    return answer


def query(standin: Standin, reference: str, date: str, **fields: str) -> dict[str, str]:
    return ask(standin, QUERY, QUERY_ANSWER, Command="querydr", TxnRef=reference, TransactionDate=date, **fields)


def refund(standin: Standin, reference: str, date: str, amount: int, kind: str = "03", **fields: str) -> dict[str, str]:
    what = {"TxnRef": reference, "TransactionDate": date, "Amount": str(amount), "TransactionType": kind}
    return ask(standin, REFUND, REFUND_ANSWER, Command="refund", CreateBy="kim", TransactionNo="", **what, **fields)


def test_the_vector_of_the_specification_verifies() -> None:
    signed = (
        "vnp_Amount=1000000&vnp_BankCode=NCB&vnp_BankTranNo=VNP14422574&vnp_CardType=ATM&vnp_OrderInfo="
        "Thanh+toan+don+hang+2024-05-21T02%3A17%3A31.249Z&vnp_PayDate=20240521091806&vnp_ResponseCode=00&"
        "vnp_TmnCode=TEST_TMN_CODE&vnp_TransactionNo=14422574&vnp_TransactionStatus=00&vnp_TxnRef=1716257871703"
    )
    expected = (
        "649982421beb422556a1374713c74e58e716ecbd05007c0c0e1f7effdfaf361dbf146889ca446139afe11b9954c4d5c486e99e3b86fcfab6"
        "957f29eb0be72895"
    )
    assert query_hash("test_secret", dict(parse_qsl(signed))) == expected == hashed(signed, "test_secret")


def test_a_payment_is_told_to_the_merchant_and_to_the_browser(standin: Standin) -> None:
    before = len(standin.merchant.received)
    date = open_page(standin, "paid")
    assert query(standin, "paid", date)["vnp_TransactionStatus"] == "01"
    result = click(standin, "paid")
    [ipn] = standin.wait_callbacks(before + 1)[before:]
    assert ipn.path.startswith("/webhooks/vnpay?")
    assert check_result(urlsplit(ipn.path).query) == result
    named = ("Amount", "ResponseCode", "TransactionStatus", "TmnCode", "TxnRef", "OrderInfo")
    told = ["10000000", "00", "00", VNPAY_CODE, "paid", "credits of An"]
    assert [result[f"vnp_{name}"] for name in named] == told
    asked = query(standin, "paid", date)
    assert (asked["vnp_ResponseCode"], asked["vnp_TransactionStatus"], asked["vnp_TransactionType"]) == (
        "00",
        "00",
        "01",
    )
    assert asked["vnp_TransactionNo"] == result["vnp_TransactionNo"]
    datetime.strptime(result["vnp_PayDate"], "%Y%m%d%H%M%S").replace(tzinfo=ZONE)
    # The order is done: neither the page nor its button works again.
    assert standin.http.post("/paymentv2/pay/paid", data={"code": "00"}).status_code == 410


@pytest.mark.parametrize(("code", "status"), [("24", "02"), ("51", "02"), ("11", "02"), ("07", "07")])
def test_a_refusal_is_told_too_and_may_be_followed_by_money(standin: Standin, code: str, status: str) -> None:
    before = len(standin.merchant.received)
    reference = f"refused{code}"
    date = open_page(standin, reference)
    result = click(standin, reference, code)
    assert (result["vnp_ResponseCode"], result["vnp_TransactionStatus"]) == (code, status)
    assert query(standin, reference, date)["vnp_TransactionStatus"] == status
    # Callbacks of their own travel side by side: the refusal must have come before the money is told.
    standin.wait_callbacks(before + 1)
    standin.control(f"/orders/{reference}/result", code="00")
    late = check_result(urlsplit(standin.wait_callbacks(before + 2)[before + 1].path).query)
    assert (late["vnp_ResponseCode"], late["vnp_TransactionStatus"]) == ("00", "00")
    assert late["vnp_TransactionNo"] not in {"0", result["vnp_TransactionNo"]}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"secret": "another"}, "70"),
        ({"TmnCode": "NOBODY00"}, "72"),
        ({"Version": "2.0.0"}, "03"),
        ({"IpAddr": ""}, "03"),
        ({"ExpireDate": "tomorrow"}, "03"),
        ({"CurrCode": "USD"}, "04"),
        ({"Amount": "499900"}, "04"),
        ({"Amount": "1e7"}, "04"),
        ({"ExpireDate": "20200101000000"}, "15"),
    ],
)
def test_a_page_that_was_not_asked_for_as_agreed_is_refused(
    standin: Standin, changes: dict[str, str], code: str
) -> None:
    page = standin.http.get(f"/paymentv2/vpcpay.html?{pay_query(standin, 'unagreed', **changes)}")
    assert (page.status_code, f"code {code}" in page.text) == (400, True), page.text
    assert query(standin, "unagreed", local_date(standin))["vnp_ResponseCode"] == "91"


def test_no_byte_of_a_pay_url_can_be_altered(standin: Standin) -> None:
    good = pay_query(standin, "altered")
    for place in range(0, len(good), 7):
        byte = "0" if good[place] != "0" else "1"
        page = standin.http.get(f"/paymentv2/vpcpay.html?{good[:place]}{byte}{good[place + 1 :]}")
        assert page.status_code == 400, (place, good[place])
    assert standin.http.get(f"/paymentv2/vpcpay.html?{good}").status_code == 200


def test_an_ipn_comes_again_until_it_is_confirmed(standin: Standin) -> None:
    before = len(standin.merchant.received)
    unconfirmed = [(200, f'{{"RspCode":"{code}","Message":""}}') for code in ("97", "01", "04", "99")]
    standin.merchant.answers = [*unconfirmed, (500, ""), (307, ""), (200, "no JSON"), (200, '{"RspCode":"02"}')]
    open_page(standin, "stubborn")
    click(standin, "stubborn")
    for number in range(1, 8):
        standin.wait_callbacks(before + number)
        standin.pass_time(299 * SECOND_US)
        assert len(standin.callbacks("waiting")) == 1
        standin.pass_time(2 * SECOND_US)
    paths = {callback.path for callback in standin.wait_callbacks(before + 8)[before:]}
    assert len(paths) == 1
    assert standin.callbacks("waiting") == []


def test_an_ipn_is_given_up_after_ten_repeats(standin: Standin) -> None:
    before = len(standin.merchant.received)
    standin.merchant.answers = [(200, '{"RspCode":"99","Message":"Unknow error"}')]
    open_page(standin, "given-up")
    click(standin, "given-up")
    for number in range(1, 12):
        standin.wait_callbacks(before + number)
        standin.pass_time(301 * SECOND_US)
    assert [item["attempts"] for item in standin.callbacks("given-up")] == [11]


def test_the_transaction_api_answers_each_code(standin: Standin) -> None:
    date = open_page(standin, "asked")
    assert query(standin, "asked", date, SecureHash="0" * 128)["vnp_ResponseCode"] == "97"
    assert query(standin, "asked", date, TmnCode="NOBODY00")["vnp_ResponseCode"] == "02"
    assert query(standin, "asked", "yesterday")["vnp_ResponseCode"] == "03"
    assert query(standin, "asked", date, RequestId="r" * 33)["vnp_ResponseCode"] == "03"
    assert query(standin, "unheard", date)["vnp_ResponseCode"] == "91"
    assert query(standin, "asked", "20200101000000")["vnp_ResponseCode"] == "91"
    assert query(standin, "asked", date, RequestId="once")["vnp_ResponseCode"] == "00"
    assert query(standin, "asked", date, RequestId="once")["vnp_ResponseCode"] == "94"
    assert refund(standin, "asked", date, 10_000_000)["vnp_ResponseCode"] == "95"
    for nonsense in ("", "[]", "{}"):
        answer = standin.http.post("/merchant_webapi/api/transaction", content=nonsense)
        assert answer.json()["vnp_ResponseCode"] == "97"


def test_refunds_never_exceed_the_payment_and_a_rejected_one_does_not_count(standin: Standin) -> None:
    date = open_page(standin, "returned")
    click(standin, "returned")
    part = refund(standin, "returned", date, 4_000_000, RequestId="part")
    assert (part["vnp_ResponseCode"], part["vnp_TransactionStatus"], part["vnp_Amount"]) == ("00", "05", "4000000")
    assert refund(standin, "returned", date, 6_000_100)["vnp_ResponseCode"] == "03"
    assert refund(standin, "returned", date, 10_000_000, kind="02")["vnp_ResponseCode"] == "03"
    assert refund(standin, "returned", date, 4_000_000, RequestId="part")["vnp_ResponseCode"] == "94"
    standin.control("/refunds/part/reject")
    assert refund(standin, "returned", date, 10_000_000, kind="02")["vnp_ResponseCode"] == "00"
    asked = query(standin, "returned", date)
    assert (asked["vnp_TransactionType"], asked["vnp_TransactionStatus"]) == ("02", "05")


def test_a_restart_keeps_what_was_paid(standin: Standin) -> None:
    standin.control("/capture", amount=9_000_000)
    open_page(standin, "kept")
    assert click(standin, "kept")["vnp_Amount"] == "9000000"
    standin.restart()
    told: list[dict[str, Any]] = standin.http.get("/_control/truth").json()["payments"]
    assert [item["amount"] for item in told if item["reference"] == "kept"] == [9_000_000]
