"""A callback that can't be read or applied: kept with its reason, in nobody's way, applied again or dismissed."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest
from stripe import WebhookSignature

from services.payment.api_operators import OperatorApi
from services.payment.api_webhooks import WebhookApi
from services.payment.app.sweep import EventSweep
from services.payment.providers import Notice
from services.payment.providers.stripe import read_event, verify_webhook
from services.payment.providers.vnpay import read_callback
from services.payment.rules.facts import Disputed, Money, Refunded
from services.payment.rules.vnpay_messages import txn_ref
from services.payment.rules.vnpay_signature import sign_query
from services.payment.store.orders import StoredOrder
from shared.clock import MINUTE_US, SECOND_US
from shared.http import create_api
from tests.payment.shop import START_US, Shop, paid, vnd
from tests.payment.stripe_api import Answer, dispute, intent, refund, session

SECRET = "whsec_own"
VNPAY_SECRET = "vnpay-own"


class Edge:
    """Payment's public edge with the readers of production, and its operators' API."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.events = 0
        api = create_api("payment", readiness=dict)
        service = shop.service
        api.include_router(WebhookApi(shop.clock, service.inbox, self._read_stripe, self._read_vnpay).router)
        api.include_router(OperatorApi(service.rates, service.settlement, service.refunds, service.inbox).router)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(api, raise_app_exceptions=False), base_url="http://payment"
        )

    def _read_stripe(self, body: bytes, signature: str, now_us: int) -> Notice:
        verify_webhook(body, signature, [SECRET], now_us)
        return read_event(body)

    def _read_vnpay(self, query: str) -> Notice:
        return read_callback(query, [VNPAY_SECRET], START_US)

    def body(self, event_type: str, found: Answer, **changed: object) -> bytes:
        self.events += 1
        event = {"id": f"evt_{self.events}", "type": event_type, "created": START_US // SECOND_US}
        return orjson.dumps(event | {"data": {"object": found}} | changed)

    async def stripe(self, body: bytes) -> tuple[int, str]:
        """What Stripe is answered for a signed event: status and outcome."""
        stamp = self.shop.clock.now_us() // SECOND_US
        header = WebhookSignature.generate_signature_header(body.decode(), SECRET, stamp)
        answer = await self.client.post("/webhooks/stripe", content=body, headers={"stripe-signature": header})
        return answer.status_code, answer.json().get("outcome", "")

    async def tell(self, event_type: str, found: Answer, **changed: object) -> tuple[int, str]:
        return await self.stripe(self.body(event_type, found, **changed))

    async def ipn(self, order: StoredOrder, **changed: str) -> str:
        fields = {
            "vnp_Amount": "25000000",
            "vnp_BankCode": "NCB",
            "vnp_OrderInfo": "x",
            "vnp_PayDate": "20270115150000",
            "vnp_ResponseCode": "00",
            "vnp_TmnCode": "TESTCODE",
            "vnp_TransactionNo": "14000001",
            "vnp_TransactionStatus": "00",
            "vnp_TxnRef": txn_ref(order.order_id),
        }
        answer = await self.client.get(f"/webhooks/vnpay?{sign_query(fields | changed, VNPAY_SECRET)}")
        assert answer.status_code == 200
        return str(answer.json()["RspCode"])

    async def kept(self) -> list[dict[str, Any]]:
        answer = await self.client.get("/v1/inbox", params={"limit": 500})
        return list(answer.json()["events"])


@pytest.fixture
async def edge(shop: Shop) -> AsyncIterator[Edge]:
    made = Edge(shop)
    yield made
    await made.client.aclose()


def marked(found: Answer, order: StoredOrder, **marks: str) -> Answer:
    own = {"tollkeeper_region": order.region, "tollkeeper_order_id": order.order_id, "tollkeeper_tenant_id": "acme"}
    return found | {"metadata": own | marks}


def paid_session(order: StoredOrder, **changed: object) -> Answer:
    found = session(
        payment_status="paid",
        status="complete",
        payment_intent="pi_1",
        amount_total=250_000,
        currency="vnd",
        customer_details={"name": "Nguyễn Văn A", "email": "payer.secret@example.org"},
    )
    return marked(found | changed, order)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("A\0B", "AB"),
        ("Trần\u202e\r\n  Ánh", "Trần Ánh"),
        ({"a": 1}, ""),
        (5, ""),
        (True, ""),
        ("x" * 10_000, "x" * 200),
        ("山田\u3000太郎", "山田 太郎"),
        ("a\u0300", "à"),
        (None, ""),
    ],
)
async def test_what_a_payer_typed_never_decides_whether_he_is_credited(edge: Edge, name: object, shown: str) -> None:
    order = await edge.shop.order()
    details = {"name": name, "email": name}
    assert await edge.tell("checkout.session.completed", paid_session(order, customer_details=details)) == (
        200,
        "applied",
    )
    assert await edge.shop.rows("select payer_name from payment") == [(shown,)]


@pytest.mark.parametrize(
    "changed", [{"amount_total": units} for units in (0, -5, 2**62, None, "5")] + [{"currency": "zzz"}]
)
async def test_money_that_makes_no_sense_is_kept_counted_and_told_to_operators(
    edge: Edge, changed: dict[str, object]
) -> None:
    order = await edge.shop.order()
    assert await edge.tell("checkout.session.completed", paid_session(order, **changed)) == (200, "unreadable")
    [kept] = await edge.kept()
    assert (kept["event_id"], kept["type"]) == ("evt_1", "checkout.session.completed")
    assert kept["problem"]
    assert "payer.secret" not in orjson.dumps(kept).decode()
    assert await edge.shop.rows("select kind, item from set_aside") == [("inbox", "stripe/evt_1")]
    assert await edge.shop.state(order) == "pending"


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b'{"id":"evt\\u0000","type":"x","data":{"object":{}}}', b"not JSON \xc3\xa9"]
)
async def test_a_signed_event_of_no_known_form_is_kept_once(edge: Edge, body: bytes) -> None:
    assert await edge.stripe(body) == (200, "unreadable")
    assert (await edge.stripe(body))[0] == 200
    [kept] = await edge.kept()
    assert kept["event_id"].startswith("unreadable:")
    assert await edge.shop.rows("select body from inbox") == [(body,)]


async def test_an_event_of_somebody_else_is_ignored_before_anything_else_of_it_is_read(edge: Edge) -> None:
    order = await edge.shop.order()
    foreign = [
        ("refund.created", refund(currency="zzz", payment_intent="pi_else")),
        ("charge.dispute.created", dispute(-1, currency="zzz", payment_intent="pi_else")),
        ("checkout.session.completed", session(payment_status="paid", amount_total=None)),
        ("payment_intent.succeeded", marked(intent(currency="zzz"), order, tollkeeper_region="kr")),
        ("refund.created", refund() | {"metadata": {"tollkeeper_region": "kr"}}),
        ("customer.created", {"created": "never"}),
    ]
    for event_type, found in foreign:
        assert await edge.tell(event_type, found) == (200, "ignored")
    assert await edge.kept() == []
    # And what is of another of our regions is not applied to an order of this one.
    assert await edge.tell(
        "payment_intent.succeeded",
        marked(intent(amount_received=250_000, currency="vnd"), order, tollkeeper_region="jp"),
    ) == (200, "ignored")
    assert await edge.shop.state(order) == "pending"
    assert await edge.shop.rows("select count(*) from early_fact") == [(0,)]


async def test_a_reversal_marked_for_another_region_is_not_applied(edge: Edge) -> None:
    order = await edge.shop.order()
    await edge.shop.apply(paid(order))
    found = refund(currency="vnd") | {"metadata": {"tollkeeper_region": "jp"}}
    assert await edge.tell("refund.created", found) == (200, "ignored")
    assert await edge.shop.state(order) == "paid"


async def test_our_own_payment_s_unreadable_dispute_is_kept(edge: Edge) -> None:
    await edge.shop.apply(paid(await edge.shop.order()))
    assert await edge.tell("charge.dispute.created", dispute(-1, currency="zzz")) == (200, "unreadable")
    assert len(await edge.kept()) == 1


async def test_an_intent_without_amount_received_is_read(edge: Edge) -> None:
    """As localstripe 1.15 sends it."""
    order = await edge.shop.order()
    found = intent(amount=250_000, currency="vnd")
    del found["amount_received"]
    assert await edge.tell("payment_intent.succeeded", marked(found, order)) == (200, "applied")


async def test_what_could_not_be_applied_is_tried_again_by_itself_and_applied_once(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await edge.shop.order()
    body = edge.body("checkout.session.completed", paid_session(order))
    inbox = edge.shop.service.inbox
    with monkeypatch.context() as patch:

        async def fail(*_arguments: object) -> None:
            raise ValueError("a bug of ours")

        patch.setattr("services.payment.app.facts.append_messages", fail)
        assert await edge.stripe(body) == (200, "failed")
        # Its provider may send it again; it is tried when its turn comes.
        assert await edge.stripe(body) == (200, "failed")
        edge.shop.clock.set(START_US + MINUTE_US)
        assert await inbox.retry() == 0
        answer = await edge.client.post("/v1/inbox/stripe/evt_1/apply", json={"actor": "kim", "reason": "mended"})
        assert (answer.status_code, "a bug of ours" in answer.json()["detail"]) == (409, True)
    assert await inbox.retry() == 0
    answer = await edge.client.post("/v1/inbox/stripe/evt_1/apply", json={"actor": "kim", "reason": "mended"})
    assert answer.status_code == 200
    assert await edge.stripe(body) == (200, "applied")
    assert await edge.shop.told() == ["captured/stripe:pi_1"]
    assert await edge.shop.rows("select count(*) from set_aside") == [(0,)]
    assert (
        await edge.client.post("/v1/inbox/stripe/evt_1/apply", json={"actor": "k", "reason": "r"})
    ).status_code == 404


async def test_an_operator_dismisses_what_can_not_be_read(edge: Edge) -> None:
    await edge.stripe(b"{}")
    [kept] = await edge.kept()
    path = f"/v1/inbox/stripe/{kept['event_id']}/dismiss"
    assert (await edge.client.post(path, json={"actor": "kim", "reason": "a test of theirs"})).status_code == 200
    assert await edge.kept() == []
    assert (await edge.client.post(path, json={"actor": "kim", "reason": "again"})).status_code == 404
    assert await edge.shop.rows("select dismissed_by, outcome from inbox") == [("kim", "dismissed")]
    assert await edge.stripe(b"{}") == (200, "dismissed")


async def test_nonsense_that_came_early_does_not_cost_the_payment(edge: Edge) -> None:
    """As a row that an older version kept: it is set aside, and applied when it can be."""
    order = await edge.shop.order()
    assert await edge.tell("refund.created", marked(refund(amount=0, currency="vnd"), order)) == (200, "unreadable")
    await edge.shop.apply(Refunded("stripe:pi_1", "stripe:re_bad", Money(0, "VND"), "pending"))
    await edge.shop.apply(Refunded("stripe:pi_1", "stripe:re_good", vnd(50_000), "pending"))
    assert await edge.tell("checkout.session.completed", paid_session(order)) == (200, "applied")
    assert await edge.shop.told() == ["captured/stripe:pi_1", "refunded/stripe:re_good"]
    assert await edge.shop.rows("select kind from set_aside where kind <> 'inbox'") == [("early",)]
    await edge.shop.rows(
        """
        with gone as (delete from early_fact returning *)
        insert into early_fact (fact_id, payment_id, fact, cause, received_at)
        select 'mended', payment_id, jsonb_set(fact, '{fact,money,amount_micros}', '1000000'), cause, received_at
        from gone
        """
    )
    edge.shop.clock.set(START_US + MINUTE_US)
    await edge.shop.service.inbox.retry()
    assert await edge.shop.told() == ["captured/stripe:pi_1", "refunded/stripe:re_good", "refunded/stripe:re_bad"]
    assert await edge.shop.rows("select count(*) from early_fact") == [(0,)]


async def test_what_came_early_and_cannot_be_read_costs_neither_its_payment_nor_others(edge: Edge) -> None:
    """As a row that a newer version kept, whose word this one does not know."""
    for name in ("pi_1", "pi_2"):
        await edge.shop.apply(Refunded(f"stripe:{name}", f"stripe:re_{name}", vnd(50_000), "pending"))
    await edge.shop.rows(
        """
        with gone as (delete from early_fact where payment_id = 'stripe:pi_1' returning *)
        insert into early_fact (fact_id, payment_id, fact, cause, received_at)
        select 'newer', payment_id, jsonb_set(fact, '{kind}', '"Forgiven"'), cause, received_at from gone
        """
    )
    for name in ("pi_1", "pi_2"):
        await edge.shop.apply(paid(await edge.shop.order(), f"stripe:{name}"))
    told = await edge.shop.told()
    assert told == ["captured/stripe:pi_1", "captured/stripe:pi_2", "refunded/stripe:re_pi_2"]
    assert await edge.shop.rows("select kind from set_aside") == [("early",)]


async def test_vnpay_is_answered_200_with_its_code_whatever_happens(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await edge.shop.order(provider="vnpay")
    for amount in ("0", "9" * 18):
        assert await edge.ipn(order, vnp_Amount=amount) == "99"
    assert [event["provider"] for event in await edge.kept()] == ["vnpay", "vnpay"]
    for error in (RuntimeError("a bug"), OSError("the server is gone"), ValueError("\0")):
        with monkeypatch.context() as patch:

            async def fail(*_arguments: object, error: Exception = error) -> None:
                raise error

            patch.setattr("services.payment.app.inbox.lock_events", fail)
            assert await edge.ipn(order) == "99"
    edge.shop.clock.set(START_US + MINUTE_US)
    await edge.shop.service.inbox.retry()
    assert await edge.shop.told() == [f"captured/vnpay:{txn_ref(order.order_id)}:14000001"]
    assert await edge.ipn(order) == "02"


async def test_the_sweep_takes_what_stands_beside_a_bad_event_and_advances(edge: Edge) -> None:
    shop = edge.shop
    order = await shop.order()
    bad = edge.body("checkout.session.completed", paid_session(order, amount_total=0))
    good = edge.body("checkout.session.completed", paid_session(order))
    shop.stripe.events = [(START_US, b"{}"), (START_US, bad), (START_US, good)]
    sweep = EventSweep(shop.service.pool, shop.clock, shop.stripe, shop.service.inbox, read_event)
    assert await sweep.sweep() == 1
    assert await shop.rows("select swept_through from event_sweep") == [(START_US,)]
    assert await shop.state(order) == "paid"
    assert len(await edge.kept()) == 2


async def test_reconciliation_works_beside_an_order_that_can_not_be_asked_about(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = edge.shop
    bad, good = await shop.order(), await shop.order()
    shop.stripe.answers[bad.order_id] = paid(bad, "stripe:pi_bad", reference="\0")
    shop.stripe.answers[good.order_id] = paid(good, "stripe:pi_good")
    asked, differences = await shop.service.reconciler.reconcile_all(0, None, None)
    kinds = {item.order_id: item.kind for item in differences if item.kind != "not-credited"}
    assert (asked, kinds) == (2, {bad.order_id: "failed", good.order_id: "healed"})
    assert await shop.rows("select kind, item from set_aside") == [("reconciliation", bad.order_id)]
    shop.clock.set(START_US + 10 * MINUTE_US)
    asked_about: list[str] = []
    look_up = shop.stripe.look_up

    async def listen(order: Any) -> Any:
        asked_about.append(order.order_id)
        return await look_up(order)

    monkeypatch.setattr(shop.stripe, "look_up", listen)
    await shop.reconcile_due()
    assert bad.order_id in asked_about
    await shop.reconcile_due()
    assert asked_about.count(bad.order_id) == 1
    shop.stripe.answers[bad.order_id] = paid(bad, "stripe:pi_bad")
    await shop.service.reconciler.reconcile_all(0, None, None)
    assert await shop.state(bad) == "paid"
    assert await shop.rows("select count(*) from set_aside") == [(0,)]


async def test_a_dispute_in_another_currency_is_queued_again_with_each_step(edge: Edge) -> None:
    """Dismissed while it was open, it must come again when it is lost."""
    shop = edge.shop
    await shop.apply(paid(await shop.order()))
    usd = Money(1_000_000, "USD")
    await shop.apply(Disputed("stripe:pi_1", "stripe:dp_1", usd, withdrawn=False))
    assert await edge.tell("charge.dispute.closed", dispute(-100, amount=100, status="lost")) == (200, "queued")
    rows = await shop.rows("select kind, subject from queue_item order by item_number")
    assert rows == [("reversal-currency", "stripe:dp_1/opened"), ("reversal-currency", "stripe:dp_1/lost")]
