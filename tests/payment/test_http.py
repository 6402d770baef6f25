"""Payment over HTTP: shapes, problems, pages, and the exact answers that providers understand."""

import csv
import io
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from services.payment.api import PaymentApi
from services.payment.api_operators import OperatorApi
from services.payment.api_webhooks import WebhookApi, vnpay_answer
from services.payment.app.inbox import Received
from services.payment.providers import BadSignature, Notice, unreadable_id
from services.payment.rules.facts import Declined, Disputed, Paid, Refunded
from shared.clock import MINUTE_US
from shared.http import create_api
from tests.payment.shop import START_US, Shop, paid, vnd

TOP_UP = {"region": "vn", "tenant_id": "acme", "amount": "250000", "currency": "VND", "provider": "stripe"}
KEY = {"Idempotency-Key": "key-1"}


class Desk:
    """The API with a client, and providers' callbacks that the test writes: the body names a notice."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.notices: dict[str, Notice] = {}
        api = create_api("payment", readiness=dict)
        service = shop.service
        api.include_router(PaymentApi(service.rates, service.topups).router)
        api.include_router(OperatorApi(service.rates, service.settlement, service.refunds, service.inbox).router)
        webhooks = WebhookApi(shop.clock, service.inbox, lambda body, sign, _now: self._read(body, sign), self._read)
        api.include_router(webhooks.router)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(api, raise_app_exceptions=False), base_url="http://payment"
        )

    def _read(self, text: bytes | str, signature: str = "signed") -> Notice:
        name = text.decode() if isinstance(text, bytes) else text
        if signature != "signed" or name == "forged":
            raise BadSignature("nobody signed this")
        if name not in self.notices:
            return Notice(unreadable_id(name.encode()), "unknown", None, None, (), problem="it says nothing")
        return self.notices[name]

    async def stripe(self, name: str, signature: str = "signed") -> httpx.Response:
        return await self.client.post("/webhooks/stripe", content=name, headers={"Stripe-Signature": signature})

    async def ipn(self, name: str) -> str:
        answer = await self.client.get(f"/webhooks/vnpay?{name}")
        assert answer.status_code == 200
        assert set(answer.json()) == {"RspCode", "Message"}
        return str(answer.json()["RspCode"])


@pytest.fixture
async def desk(shop: Shop) -> AsyncIterator[Desk]:
    made = Desk(shop)
    yield made
    await made.client.aclose()


async def test_a_top_up_answers_its_page_and_the_same_again(desk: Desk) -> None:
    first = await desk.client.post("/v1/top-ups", json=TOP_UP, headers=KEY)
    assert first.status_code == 201
    body = first.json()
    assert body["page_url"].startswith("https://stripe.test/")
    assert (body["amount"], body["currency"], body["credit_micros"]) == ("250000.00", "VND", 250_000_000_000)
    assert (body["state"], body["rate"], body["rate_date"]) == ("pending", None, None)
    again = await desk.client.post("/v1/top-ups", json=TOP_UP, headers=KEY)
    assert (again.status_code, again.json()) == (201, body)
    other = await desk.client.post("/v1/top-ups", json={**TOP_UP, "amount": "260000"}, headers=KEY)
    assert other.status_code == 409
    assert (await desk.client.get(f"/v1/top-ups/{body['order_id']}")).json() == body
    missing = await desk.client.get("/v1/top-ups/none")
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:tollkeeper:problem:order-not-found")


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": 5},
        {"amount": "1e9"},
        {"amount": "9" * 41},
        {"currency": "usd"},
        {"currency": None},
        {"provider": "paypal"},
        {"region": "VN!"},
        {"tenant_id": "a/b"},
        {"email": "nobody"},
        {"email": "a@b\nBcc: c@d"},
        {"name": "\x00"},
        {"locale": "../../etc"},
        {"bank_code": "a b"},
        {"surprise": 1},
        {"quote_id": "x" * 201},
    ],
)
async def test_bad_input_is_a_clear_problem_and_keeps_nothing(desk: Desk, changes: dict[str, Any]) -> None:
    answer = await desk.client.post("/v1/top-ups", json={**TOP_UP, **changes}, headers=KEY)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert await desk.shop.rows("select count(*) from payment_order") == [(0,)]


async def test_a_key_is_needed_and_bodies_are_json(desk: Desk) -> None:
    assert (await desk.client.post("/v1/top-ups", json=TOP_UP)).status_code == 422
    for key in ("k" * 201, "", "a\tb"):
        answer = await desk.client.post("/v1/top-ups", json=TOP_UP, headers={"Idempotency-Key": key})
        assert answer.status_code == 422
    for path in ("/v1/top-ups/%00", "/v1/accounts/vn/%00/payments", "/v1/accounts/vn/%00/payments.csv"):
        assert (await desk.client.get(path)).status_code == 422
    assert (await desk.client.post("/v1/queue/%00/settle", json={})).status_code == 422
    assert (await desk.client.post("/v1/payments/%00/refunds", json={}, headers=KEY)).status_code == 422
    assert (await desk.client.post("/v1/top-ups", content=b"\xff{", headers=KEY)).status_code == 422
    assert (await desk.client.post("/v1/top-ups", json=[], headers=KEY)).status_code == 422


async def test_a_key_of_automatic_top_up_is_no_customers(desk: Desk) -> None:
    answer = await desk.client.post("/v1/top-ups", json=TOP_UP, headers={"Idempotency-Key": "auto-top-up/1"})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:tollkeeper:problem:idempotency-key-reserved")
    assert await desk.shop.rows("select count(*) from payment_order") == [(0,)]


async def test_parts_out_of_reach_are_503_and_refusals_say_why(desk: Desk) -> None:
    desk.shop.balance.down = True
    answer = await desk.client.post("/v1/top-ups", json=TOP_UP, headers=KEY)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:tollkeeper:problem:unavailable")
    desk.shop.balance.down, desk.shop.stripe.refuses = False, True
    answer = await desk.client.post("/v1/top-ups", json=TOP_UP, headers=KEY)
    assert (answer.status_code, answer.json()["detail"]) == (422, "the fake refuses")


async def test_rates_and_quotes(desk: Desk) -> None:
    rate = {"from": "USD", "to": "VND", "rate": "25400.5", "date": "2027-01-15", "actor": "treasury"}
    assert (await desk.client.put("/v1/exchange-rates", json=rate)).status_code == 200
    for wrong in ({"rate": "0"}, {"date": "2027-02-30"}, {"to": "USD"}, {"actor": ""}, {"rate": 25400}):
        answer = await desk.client.put("/v1/exchange-rates", json={**rate, **wrong})
        assert answer.status_code == 422, wrong
    [listed] = (await desk.client.get("/v1/exchange-rates")).json()["exchange_rates"]
    assert (listed["rate"], listed["date"], listed["actor"]) == ("25400.5", "2027-01-15", "treasury")
    quote = await desk.client.post("/v1/quotes", json={"region": "vn", "amount": "50.00", "currency": "USD"})
    assert quote.status_code == 201
    body = {**TOP_UP, "amount": "50.00", "currency": "USD", "quote_id": quote.json()["quote_id"]}
    order = (await desk.client.post("/v1/top-ups", json=body, headers=KEY)).json()
    assert (order["rate"], order["rate_date"], order["credit_micros"]) == ("25400.5", "2027-01-15", 1_270_025_000_000)


async def test_stripe_is_answered_as_it_understands(desk: Desk) -> None:
    order = await desk.shop.order()
    assert (await desk.stripe("paid", "forged")).status_code == 400
    answer = await desk.stripe("says nothing")
    assert (answer.status_code, answer.json()) == (200, {"received": True, "outcome": "unreadable"})
    notice = Notice("evt_1", "checkout.session.completed", "vn", order.order_id, (paid(order),))
    desk.notices["paid"] = notice
    answer = await desk.stripe("paid")
    assert (answer.status_code, answer.json()) == (200, {"received": True, "outcome": "applied"})
    assert (await desk.stripe("paid")).status_code == 200
    unknown = Paid("nowhere", "stripe:pi_2", order.money, START_US, None, "ref")
    desk.notices["early"] = replace(notice, event_id="evt_2", order_id="nowhere", facts=(unknown,))
    answer = await desk.stripe("early")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:tollkeeper:problem:order-not-known-yet")
    desk.shop.clock.set(START_US + 10 * MINUTE_US)
    assert (await desk.stripe("early")).json() == {"received": True, "outcome": "unknown"}
    desk.notices["foreign"] = replace(notice, event_id="evt_3", region="de")
    assert (await desk.stripe("foreign")).json() == {"received": True, "outcome": "ignored"}


async def test_vnpay_is_answered_by_its_table(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    order = await desk.shop.order(provider="vnpay")
    failing = await desk.shop.order(provider="vnpay")
    base = Notice("ref:1:00:00", "ipn", None, order.order_id, (paid(order, "vnpay:ref:1"),), order.money)
    short = replace(paid(order, "vnpay:ref:2"), money=vnd(1))
    declined = (Declined(failing.order_id, "vnpay-24-02", final=True),)
    desk.notices = {
        "paid": base,
        "short": replace(base, event_id="ref:2:00:00", facts=(short,), money=vnd(1)),
        "stranger": replace(base, event_id="x:1:00:00", order_id=None, facts=()),
        "unknown": replace(base, event_id="y:1:00:00", order_id="y", facts=(replace(short, order_id="y"),)),
        "failed-short": Notice("f:0:24:02", "ipn", None, failing.order_id, declined, vnd(1)),
        "failed": Notice("f:0:24:03", "ipn", None, failing.order_id, declined, failing.money),
    }
    assert await desk.ipn("forged") == "97"
    assert await desk.ipn("nothing") == "99"
    assert [await desk.ipn("stranger"), await desk.ipn("unknown")] == ["01", "01"]
    assert await desk.ipn("short") == "04"
    assert await desk.shop.state(order) == "mismatched"
    with monkeypatch.context() as patch:

        async def fail(*_arguments: object) -> None:
            raise TimeoutError

        patch.setattr("services.payment.app.facts.append_messages", fail)
        assert await desk.ipn("paid") == "99"
    assert [await desk.ipn("paid"), await desk.ipn("paid"), await desk.ipn("short")] == ["00", "02", "04"]
    assert await desk.ipn("failed-short") == "04"
    assert await desk.shop.state(failing) == "pending"
    assert [await desk.ipn("failed"), await desk.ipn("failed")] == ["00", "02"]
    assert await desk.shop.state(failing) == "failed"
    assert await desk.shop.told() == ["captured/vnpay:ref:1", f"failed/{failing.order_id}"]


def test_confirmed_already_is_said_only_of_this_very_result() -> None:
    assert vnpay_answer(Received("applied"))[0] == "00"
    assert vnpay_answer(Received("queued"))[0] == "00"
    assert vnpay_answer(Received("ignored"))[0] == "00"
    assert vnpay_answer(Received("repeated"))[0] == "02"
    assert vnpay_answer(Received("applied", repeated=True))[0] == "02"


async def test_the_history_has_pages_and_a_csv(desk: Desk) -> None:
    shop = desk.shop
    orders = [await shop.order() for _ in range(5)]
    await shop.receive("evt_1", paid(orders[0]), order=orders[0])
    await shop.acknowledge("stripe:pi_1")
    await shop.apply(Refunded("stripe:pi_1", "stripe:re_1", vnd(50_000), "succeeded"))
    await shop.apply(Disputed("stripe:pi_1", "stripe:dp_1", vnd(10_000), withdrawn=True))
    await shop.apply(replace(paid(orders[0], "stripe:pi_9"), order_id="nowhere"))
    [(item_id,)] = await shop.rows("select item_id from queue_item")
    wish = {"action": "credit", "reason": "r", "actor": "a", "amount_micros": 9, "region": "vn", "tenant_id": "acme"}
    assert (await desk.client.post(f"/v1/queue/{item_id}/settle", json=wish)).status_code == 200
    found: list[dict[str, Any]] = []
    after = None
    while True:
        cursor: dict[str, Any] = {} if after is None else {"after": after}
        page = await desk.client.get("/v1/accounts/vn/acme/payments", params={"limit": 2, **cursor})
        found += page.json()["payments"]
        after = page.json()["next"]
        if after is None:
            break
    assert [item["order_id"] for item in found] == [None, *[order.order_id for order in reversed(orders)]]
    [payment] = found[-1]["payments"]
    assert (payment["payment_id"], payment["amount"], payment["credit_micros"]) == (
        "stripe:pi_1",
        "250000.00",
        250_000_000_000,
    )
    assert [item["amount"] for item in (*payment["refunds"], *payment["disputes"])] == ["50000.00", "10000.00"]
    text = (await desk.client.get("/v1/accounts/vn/acme/payments.csv")).text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["kind"] for row in rows] == ["payment", *["order"] * 5, "payment", "refund", "dispute"]
    assert rows[-2]["amount"] == "50000.00"
    assert "an@example.com" not in text
    marked = await desk.client.get("/v1/accounts/vn/acme/payments.csv", params={"bom": "1"})
    assert marked.content == b"\xef\xbb\xbf" + text.encode()
    [entry] = [item for item in found if item["order_id"] == orders[1].order_id]
    await shop.receive("evt_2", paid(orders[1], "=1+1"), order=orders[1])
    shown = (await desk.client.get("/v1/accounts/vn/acme/payments.csv")).text
    [row] = [row for row in csv.DictReader(io.StringIO(shown)) if "1+1" in row["id"]]
    assert (row["order_id"], row["id"], row["amount"]) == (entry["order_id"], "'=1+1", "250000.00")
    empty = await desk.client.get("/v1/accounts/vn/nobody/payments")
    assert empty.json() == {"payments": [], "next": None}
    for wrong in ("!!", "LTE=", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5"):
        answer = await desk.client.get("/v1/accounts/vn/acme/payments", params={"after": wrong})
        assert answer.status_code == 422


async def test_operators_settle_and_refund(desk: Desk) -> None:
    shop = desk.shop
    order = await shop.order()
    await shop.receive("evt_1", paid(order, money=vnd(1)), order=order)
    [item] = (await desk.client.get("/v1/queue")).json()["items"]
    assert (item["kind"], item["order_id"], item["amount_micros"]) == ("mismatch", order.order_id, 1_000_000)
    path = f"/v1/queue/{item['item_id']}/settle"
    for wrong in ({}, {"action": "keep"}, {"action": "credit", "reason": "", "actor": "a"}):
        assert (await desk.client.post(path, json=wrong)).status_code == 422
    without = await desk.client.post(path, json={"action": "credit", "reason": "r", "actor": "a"})
    assert (without.status_code, without.json()["type"]) == (422, "urn:tollkeeper:problem:amount-needed")
    wish = {"action": "credit", "reason": "r", "actor": "a", "amount_micros": 1_000_000}
    assert (await desk.client.post(path, json=wish)).json()["credited_micros"] == 1_000_000
    assert (await desk.client.get("/v1/queue")).json()["items"] == []
    assert len((await desk.client.get("/v1/queue?settled=true")).json()["items"]) == 1
    assert (await desk.client.post("/v1/queue/none/settle", json=wish)).status_code == 404
    refund = {"full": True, "reason": "r", "actor": "a"}
    target = "/v1/payments/stripe:pi_1/refunds"
    assert (await desk.client.post(target, json=refund)).status_code == 422
    both = await desk.client.post(target, json={**refund, "amount_micros": 5}, headers=KEY)
    assert both.json()["type"] == "urn:tollkeeper:problem:amount-or-full"
    answer = await desk.client.post(target, json=refund, headers=KEY)
    assert (answer.status_code, answer.json()["amount_micros"]) == (201, 1_000_000)
    assert (await desk.client.post(target, json=refund, headers=KEY)).json() == answer.json()
    assert (await desk.client.post("/v1/payments/none/refunds", json=refund, headers=KEY)).status_code == 404
    status = (await desk.client.get("/v1/status")).json()
    assert (status["queue"], status["waiting"], status["refunds_open"]) == (0, 1, 0)


async def test_nothing_personal_is_told(desk: Desk) -> None:
    """Names and addresses of payers stay in the database: not in events, queue or history."""
    shop = desk.shop
    order = await shop.order(email="an@example.com", payer_name="Nguyễn An")
    await shop.receive("evt_1", paid(order, "stripe:pi_2", money=vnd(1)), order=order)
    await shop.receive("evt_2", paid(order), order=order)
    texts = [str(await shop.events())]
    paths = ("/v1/queue", f"/v1/top-ups/{order.order_id}", "/v1/accounts/vn/acme/payments", "/metrics")
    texts += [(await desk.client.get(path)).text for path in paths]
    for text in texts:
        assert "example.com" not in text
        assert "Nguy" not in text
        assert "203.0.113.7" not in text
