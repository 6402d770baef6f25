"""What is sent to Stripe, by Stripe's own rules, and what its answers mean."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import httpx
import orjson
import pytest
from stripe import HTTPClient

from services.payment.providers import (
    AskedOrder,
    NeedsCustomer,
    Page,
    PageOrder,
    ProviderRefusal,
    RefundOrder,
    SavedCharge,
    UnreadableAnswer,
)
from services.payment.providers.stripe import StripeProvider, open_stripe, read_event
from services.payment.rules.currencies import STRIPE_UNITS, from_stripe_units
from services.payment.rules.facts import (
    Attempted,
    Declined,
    DisputeClosed,
    Disputed,
    Expired,
    Fact,
    Money,
    Paid,
    Payer,
    Refunded,
    RefundFailed,
    SavedCard,
)
from services.payment.rules.stripe_objects import EVENT_TYPES
from services.payment.settings import PaymentSettings
from shared.clock import SECOND_US
from shared.errors import Refusal, TransientFault
from tests.payment.stripe_api import (
    KEY,
    Answer,
    StripeApi,
    dispute,
    error,
    intent,
    listed,
    open_provider,
    refund,
    session,
)

# Stripe's library hands httpx a form as text, which httpx would like to be called otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

OPEN_PAGE = "POST /v1/checkout/sessions"
READ_SESSION = "GET /v1/checkout/sessions/{session}"
EXPIRE = "POST /v1/checkout/sessions/{session}/expire"
CHARGE = "POST /v1/payment_intents"
READ_INTENT = "GET /v1/payment_intents/{intent}"
REFUND = "POST /v1/refunds"
REFUNDS = "GET /v1/refunds"
INTENTS = "GET /v1/payment_intents"
DISPUTES = "GET /v1/disputes"
EVENTS = "GET /v1/events"

CREATED_US = 1_795_507_200 * SECOND_US
USD50 = Money(50_000_000, "USD")
ORDER = PageOrder(
    order_id="order-1",
    region="vn",
    tenant_id="acme",
    money=USD50,
    created_at_us=CREATED_US,
    expires_at_us=CREATED_US + 3600 * SECOND_US,
    return_url="https://pay.example.com",
    page_token="a1b2",
    payer_ip="203.0.113.9",
)
ASKED = AskedOrder("order-1", "vn", "acme", USD50, CREATED_US, "cs_test_1")
REFUND_ORDER = RefundOrder(
    "5f" * 16, "vn", "order-1", "stripe:pi_1", Money(20_000_000, "USD"), USD50, CREATED_US, CREATED_US, "anna"
)
SAVED = SavedCharge("6e" * 16, "order-1", "vn", "acme", USD50, SavedCard("cus_1", "pm_1"))
MARKS = {"tollkeeper_region": "vn", "tollkeeper_order_id": "order-1", "tollkeeper_tenant_id": "acme"}


@pytest.fixture
def api() -> StripeApi:
    return StripeApi()


@pytest.fixture
async def provider(api: StripeApi) -> AsyncIterator[StripeProvider]:
    opened = open_provider(api)
    yield opened
    await opened.close()
    api.check()


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library waits between attempts; here nobody recovers meanwhile."""
    monkeypatch.setattr(HTTPClient, "INITIAL_DELAY", 0)
    monkeypatch.setattr(HTTPClient, "MAX_DELAY", 0)


async def test_a_page_is_a_checkout_session(provider: StripeProvider, api: StripeApi) -> None:
    api.lay(OPEN_PAGE, session())
    page = await provider.open_page(ORDER)
    assert page == Page("https://checkout.stripe.test/c/pay/cs_test_1", "cs_test_1")
    assert api.sent(OPEN_PAGE) == [
        {
            "mode": "payment",
            "client_reference_id": "order-1",
            "line_items": {
                "0": {
                    "quantity": "1",
                    "price_data": {
                        "currency": "usd",
                        "unit_amount": "5000",
                        "product_data": {"name": "Credits for acme"},
                    },
                }
            },
            # Both: events about the intent carry the intent's metadata, not the session's.
            "metadata": MARKS,
            "payment_intent_data": {"metadata": MARKS},
            "success_url": "https://pay.example.com/return/stripe?order=a1b2&session_id={CHECKOUT_SESSION_ID}",
            "cancel_url": "https://pay.example.com/orders/a1b2",
            "expires_at": "1795510800",
            "adaptive_pricing": {"enabled": "false"},
        }
    ]


async def test_the_same_order_has_the_same_key(provider: StripeProvider, api: StripeApi) -> None:
    api.lay(OPEN_PAGE, session())
    await provider.open_page(ORDER)
    await provider.open_page(ORDER)
    await provider.open_page(replace(ORDER, order_id="order-2"))
    assert api.keys() == ["page-order-1", "page-order-1", "page-order-2"]
    assert api.sent(OPEN_PAGE)[0] == api.sent(OPEN_PAGE)[1]


async def test_what_a_page_may_carry(provider: StripeProvider, api: StripeApi) -> None:
    api.lay(OPEN_PAGE, session())
    await provider.open_page(replace(ORDER, locale="vi-VN", email="an@example.com", save_card=True))
    await provider.open_page(replace(ORDER, locale="xx"))
    full, plain = api.sent(OPEN_PAGE)
    assert (full["locale"], full["customer_email"]) == ("vi", "an@example.com")
    assert full["payment_intent_data"] == {"metadata": MARKS, "setup_future_usage": "off_session"}
    assert full["customer_creation"] == "always"
    assert not {"locale", "customer_email", "customer_creation"} & set(plain)


async def test_a_page_stays_open_for_the_half_hour_that_stripe_asks_for(
    provider: StripeProvider, api: StripeApi
) -> None:
    """An order of thirty minutes is a little older when its session is opened."""
    api.lay(OPEN_PAGE, session())
    await provider.open_page(replace(ORDER, expires_at_us=CREATED_US + 1800 * SECOND_US))
    assert int(api.sent(OPEN_PAGE)[0]["expires_at"]) == 1_795_507_200 + 35 * 60


async def test_every_currency_is_asked_for_in_its_units(provider: StripeProvider, api: StripeApi) -> None:
    api.lay(OPEN_PAGE, session())
    for currency in STRIPE_UNITS:
        await provider.open_page(replace(ORDER, money=Money(7_000_000, currency)))
    asked = [form["line_items"]["0"]["price_data"] for form in api.sent(OPEN_PAGE)]
    told = [from_stripe_units(int(item["unit_amount"]), item["currency"]) for item in asked]
    assert told == [Money(7_000_000, currency) for currency in STRIPE_UNITS]


async def test_what_stripe_can_not_take_is_not_sent(provider: StripeProvider, api: StripeApi) -> None:
    for money in (Money(50_005_000, "USD"), Money(1_500_000, "JPY"), Money(1_000_000, "XXX"), Money(0, "USD")):
        with pytest.raises(Refusal):
            await provider.open_page(replace(ORDER, money=money))
    assert api.requests == []


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error(400, "invalid_request_error", "amount_too_small", param="line_items[0]"), "amount-too-small"),
        (error(400, "invalid_request_error", "amount_too_large", param="line_items[0]"), "amount-too-large"),
        (error(400, "invalid_request_error", "email_invalid", param="customer_email"), "stripe-invalid-request"),
        (error(404, "invalid_request_error", "resource_missing"), "stripe-invalid-request"),
        (error(400, "idempotency_error"), "stripe-refused"),
    ],
)
async def test_a_refusal_tells_its_reason(
    provider: StripeProvider, api: StripeApi, answer: httpx.Response, code: str
) -> None:
    api.lay(OPEN_PAGE, answer)
    with pytest.raises(ProviderRefusal) as caught:
        await provider.open_page(ORDER)
    assert caught.value.code == code
    assert caught.value.status == 422


@pytest.mark.parametrize(
    "answer",
    [
        error(429, "invalid_request_error", "rate_limit"),
        error(500, "api_error"),
        error(409, "invalid_request_error", "idempotency_key_in_use"),
        error(401, "invalid_request_error"),
        error(403, "invalid_request_error"),
        httpx.Response(503, text="<html>", headers={"stripe-should-retry": "false"}),
        httpx.Response(200, text="<html>"),
        session(url=None),
    ],
)
async def test_what_passes_is_to_be_asked_again(
    provider: StripeProvider, api: StripeApi, answer: httpx.Response | Answer
) -> None:
    api.lay(OPEN_PAGE, answer)
    with pytest.raises(TransientFault):
        await provider.open_page(ORDER)


async def test_a_fault_of_the_network_is_tried_again_with_the_same_key(
    provider: StripeProvider, api: StripeApi
) -> None:
    api.lay(OPEN_PAGE, httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), session())
    assert (await provider.open_page(ORDER)).reference == "cs_test_1"
    assert api.keys() == ["page-order-1"] * 3
    api.lay(OPEN_PAGE, httpx.ConnectError("refused"))
    with pytest.raises(TransientFault):
        await provider.open_page(ORDER)
    assert len(api.requests) == 6


PAID_SESSION = session(
    status="complete",
    payment_status="paid",
    payment_intent=intent(setup_future_usage="off_session", customer="cus_1", payment_method="pm_1"),
    customer_details={"name": "An", "email": "an@example.com"},
)
PAID = Paid(
    "order-1", "stripe:pi_1", USD50, CREATED_US, Payer("An", "an@example.com"), "pi_1", SavedCard("cus_1", "pm_1")
)
FAILED_INTENT = intent(status="requires_payment_method", last_payment_error={"code": "card_declined"})


@pytest.mark.parametrize(
    ("found", "facts"),
    [
        (session(), []),
        (session(payment_intent=intent(status="requires_payment_method", last_payment_error=None)), []),
        (session(payment_intent=FAILED_INTENT), [Declined("order-1", "card_declined", final=False)]),
        (session(status="expired"), [Expired("order-1")]),
        (
            session(status="complete", payment_intent=intent(status="processing")),
            [Attempted("order-1", "processing")],
        ),
        (session(status="complete", payment_intent=FAILED_INTENT), [Declined("order-1", "card_declined", final=True)]),
        (PAID_SESSION, [PAID]),
    ],
)
async def test_a_session_is_looked_up(
    provider: StripeProvider, api: StripeApi, found: Answer, facts: list[Fact]
) -> None:
    api.lay(READ_SESSION, found)
    api.lay(REFUNDS, listed())
    api.lay(DISPUTES, listed())
    assert await provider.look_up(ASKED) == facts
    assert api.sent(READ_SESSION) == [{"expand": {"0": "payment_intent", "1": "payment_intent.latest_charge"}}]


async def test_refunds_and_disputes_are_looked_up_with_their_payment(provider: StripeProvider, api: StripeApi) -> None:
    api.lay(READ_SESSION, PAID_SESSION)
    api.lay(REFUNDS, listed(refund(id="re_2", status="failed", failure_reason="declined"), refund()))
    api.lay(DISPUTES, listed(dispute(-4600, id="dp_2", status="lost"), dispute(-4600)))
    assert await provider.look_up(ASKED) == [
        PAID,
        Refunded("stripe:pi_1", "stripe:re_1", Money(20_000_000, "USD"), "succeeded"),
        RefundFailed("stripe:pi_1", "stripe:re_2", Money(20_000_000, "USD"), "declined"),
        Disputed("stripe:pi_1", "stripe:dp_1", USD50, withdrawn=True),
        Disputed("stripe:pi_1", "stripe:dp_2", USD50, withdrawn=True),
        DisputeClosed("stripe:pi_1", "stripe:dp_2", "lost", USD50, withdrawn=True),
    ]
    assert api.sent(REFUNDS) == api.sent(DISPUTES) == [{"payment_intent": "pi_1", "limit": "100"}]


@pytest.mark.parametrize(
    "asked",
    [
        replace(ASKED, reference="pi_1"),
        replace(ASKED, reference=None, payment_id="stripe:pi_1"),
        replace(ASKED, reference="pi_1", payment_id="stripe:pi_1"),
    ],
)
async def test_a_payment_without_a_page_is_looked_up_by_its_intent(
    provider: StripeProvider, api: StripeApi, asked: AskedOrder
) -> None:
    charge = {"id": "ch_1", "object": "charge", "billing_details": {"name": "An", "email": "an@example.com"}}
    api.lay(READ_INTENT, intent(latest_charge=charge))
    api.lay(REFUNDS, listed(refund(status="pending")))
    api.lay(DISPUTES, listed())
    assert await provider.look_up(asked) == [
        Paid("order-1", "stripe:pi_1", USD50, CREATED_US, Payer("An", "an@example.com"), "pi_1"),
        Refunded("stripe:pi_1", "stripe:re_1", Money(20_000_000, "USD"), "pending"),
    ]


async def test_an_order_without_page_and_payment_is_not_asked_about(provider: StripeProvider, api: StripeApi) -> None:
    assert await provider.look_up(replace(ASKED, reference=None)) == []
    assert api.requests == []


async def test_an_unreadable_answer_is_no_fact(provider: StripeProvider, api: StripeApi) -> None:
    api.lay(READ_SESSION, PAID_SESSION | {"currency": "zzz"})
    with pytest.raises(UnreadableAnswer):
        await provider.look_up(ASKED)


@pytest.mark.parametrize(
    ("changed", "fact"),
    [
        ({}, Refunded("stripe:pi_1", "stripe:re_1", Money(20_000_000, "USD"), "succeeded")),
        ({"status": "pending"}, Refunded("stripe:pi_1", "stripe:re_1", Money(20_000_000, "USD"), "pending")),
        ({"status": "failed"}, RefundFailed("stripe:pi_1", "stripe:re_1", Money(20_000_000, "USD"), "failed")),
    ],
)
async def test_a_refund_is_sent(provider: StripeProvider, api: StripeApi, changed: Answer, fact: Fact) -> None:
    api.lay(REFUND, refund(**changed))
    assert await provider.refund(REFUND_ORDER) == fact
    assert api.sent(REFUND) == [
        {
            "payment_intent": "pi_1",
            "amount": "2000",
            "metadata": {
                "tollkeeper_region": "vn",
                "tollkeeper_order_id": "order-1",
                "tollkeeper_request_id": "5f" * 16,
            },
        }
    ]
    assert api.keys() == [f"refund-{'5f' * 16}"]


async def test_a_lost_refund_is_found_by_our_request_s_mark(provider: StripeProvider, api: StripeApi) -> None:
    ours = refund(id="re_2", metadata={"tollkeeper_request_id": "5f" * 16})
    api.lay(REFUNDS, listed(refund(id="re_9"), has_more=True), listed(refund(id="re_8"), ours))
    found = await provider.find_refund(REFUND_ORDER)
    assert found == Refunded("stripe:pi_1", "stripe:re_2", Money(20_000_000, "USD"), "succeeded")
    assert [form.get("starting_after") for form in api.sent(REFUNDS)] == [None, "re_9"]
    api.lay(REFUNDS, listed(refund(id="re_9")))
    assert await provider.find_refund(REFUND_ORDER) is None


@pytest.mark.parametrize(
    ("intents", "outcome"),
    [
        ([], None),
        ([intent(id="pi_other", metadata={"tollkeeper_order_id": "order-2"})], None),
        ([intent(metadata=MARKS)], Paid("order-1", "stripe:pi_1", USD50, CREATED_US, None, "pi_1")),
        ([intent(metadata=MARKS, status="processing")], Attempted("order-1", "processing")),
        (
            [
                intent(
                    id="pi_2",
                    metadata=MARKS | {"tollkeeper_kind": "saved"},
                    status="requires_payment_method",
                    last_payment_error={"code": "authentication_required"},
                )
            ],
            NeedsCustomer("order-1", "pi_2", "authentication_required"),
        ),
        (
            [
                intent(
                    metadata=MARKS | {"tollkeeper_kind": "saved"},
                    status="requires_payment_method",
                    last_payment_error={"code": "card_declined"},
                )
            ],
            Declined("order-1", "card_declined", final=True),
        ),
        # Money counts, whatever else was tried for the order.
        (
            [intent(id="pi_9", metadata=MARKS, status="canceled"), intent(metadata=MARKS)],
            Paid("order-1", "stripe:pi_1", USD50, CREATED_US, None, "pi_1"),
        ),
    ],
)
async def test_a_lost_charge_is_found_by_its_order_s_mark(
    provider: StripeProvider, api: StripeApi, intents: list[Answer], outcome: Fact | NeedsCustomer | None
) -> None:
    api.lay(INTENTS, listed(*intents))
    assert await provider.find_charge(SAVED, CREATED_US) == outcome
    [asked] = api.sent(INTENTS)
    assert (asked["customer"], asked["created"]) == ("cus_1", {"gte": str(CREATED_US // SECOND_US - 300)})


def test_a_key_is_remembered_for_a_day(provider: StripeProvider) -> None:
    assert provider.remembers(CREATED_US, CREATED_US + 22 * 3600 * SECOND_US)
    assert not provider.remembers(CREATED_US, CREATED_US + 24 * 3600 * SECOND_US)


async def test_a_refund_that_stripe_refuses_is_no_fact(provider: StripeProvider, api: StripeApi) -> None:
    api.lay(REFUND, error(400, "invalid_request_error", "charge_already_refunded"))
    with pytest.raises(ProviderRefusal, match="charge_already_refunded"):
        await provider.refund(REFUND_ORDER)
    api.lay(REFUND, refund(payment_intent=None))
    with pytest.raises(UnreadableAnswer):
        await provider.refund(REFUND_ORDER)


def declined(code: str) -> httpx.Response:
    return error(402, "card_error", code, payment_intent=intent(id="pi_2", status="requires_payment_method"))


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (intent(), Paid("order-1", "stripe:pi_1", USD50, CREATED_US, None, "pi_1")),
        (intent(status="processing"), Attempted("order-1", "processing")),
        (intent(status="requires_action"), NeedsCustomer("order-1", "pi_1", "authentication_required")),
        (declined("authentication_required"), NeedsCustomer("order-1", "pi_2", "authentication_required")),
        (declined("card_declined"), Declined("order-1", "card_declined", final=True)),
        (error(402, "card_error", "expired_card"), Declined("order-1", "expired_card", final=True)),
    ],
)
async def test_a_saved_card_is_charged(
    provider: StripeProvider, api: StripeApi, answer: Answer | httpx.Response, outcome: Fact | NeedsCustomer
) -> None:
    api.lay(CHARGE, answer)
    assert await provider.charge_saved(SAVED) == outcome
    assert api.sent(CHARGE) == [
        {
            "amount": "5000",
            "currency": "usd",
            "customer": "cus_1",
            "payment_method": "pm_1",
            "off_session": "true",
            "confirm": "true",
            "metadata": MARKS | {"tollkeeper_kind": "saved"},
        }
    ]
    assert api.keys() == [f"charge-{'6e' * 16}"]


async def test_a_charge_is_never_repeated_by_the_library(provider: StripeProvider, api: StripeApi) -> None:
    """Each repeat is decided again: the customer may have withdrawn his consent meanwhile (finding: payment A1)."""
    api.lay(CHARGE, httpx.Response(503, json={"error": {"type": "api_error"}}), intent())
    with pytest.raises(TransientFault):
        await provider.charge_saved(SAVED)
    assert len(api.sent(CHARGE)) == 1


async def test_an_unclear_charge_is_neither_paid_nor_declined(provider: StripeProvider, api: StripeApi) -> None:
    for answer in (error(500, "api_error"), error(401, "x"), intent(status="requires_capture")):
        api.lay(CHARGE, answer)
        with pytest.raises(TransientFault):
            await provider.charge_saved(SAVED)
    api.lay(CHARGE, intent(currency="zzz"))
    with pytest.raises(UnreadableAnswer):
        await provider.charge_saved(SAVED)


async def test_a_page_is_closed(provider: StripeProvider, api: StripeApi) -> None:
    api.lay(EXPIRE, session(status="expired"))
    await provider.expire(ASKED)
    # Already complete or expired: it stays what it is.
    api.lay(EXPIRE, error(400, "invalid_request_error"))
    await provider.expire(ASKED)
    assert len(api.requests) == 2
    for reference in (None, "pi_1"):
        await provider.expire(replace(ASKED, reference=reference))
    assert len(api.requests) == 2
    api.lay(EXPIRE, error(500, "api_error"))
    with pytest.raises(TransientFault):
        await provider.expire(ASKED)


def event(number: int) -> Answer:
    marked = PAID_SESSION | {"payment_intent": "pi_1", "metadata": MARKS}
    return {
        "id": f"evt_{number}",
        "object": "event",
        "type": "checkout.session.completed",
        "created": 1_795_507_200 + number,
        "data": {"object": marked},
    }


async def test_missed_events_come_oldest_first_as_a_webhook_would_carry_them(
    provider: StripeProvider, api: StripeApi
) -> None:
    api.lay(EVENTS, listed(event(3), event(2), has_more=True), listed(event(1)))
    bodies = [body async for body in provider.list_events(CREATED_US + 1)]
    assert [orjson.loads(body) for body in bodies] == [event(1), event(2), event(3)]
    notice = read_event(bodies[0])
    assert (notice.event_id, notice.region, notice.order_id) == ("evt_1", "vn", "order-1")
    assert len(notice.facts) == 1
    first, second = api.sent(EVENTS)
    assert first["created"] == {"gte": "1795507200"}
    assert sorted(first["types"].values()) == sorted(EVENT_TYPES)
    assert "starting_after" not in first
    assert second["starting_after"] == "evt_2"


async def test_an_event_that_no_bytes_can_hold_hides_no_other(provider: StripeProvider, api: StripeApi) -> None:
    """A number beyond 64 bits: it can't be read, and the missed ones beside it are."""
    huge = event(2)
    huge["data"]["object"] = huge["data"]["object"] | {"amount_total": 10**30}
    api.lay(EVENTS, listed(event(3), huge, event(1)))
    notices = [read_event(body) async for body in provider.list_events(CREATED_US + 1)]
    assert [notice.problem is None for notice in notices] == [True, False, True]
    assert [notice.event_id for notice in notices] == ["evt_1", "evt_2", "evt_3"]


Ask = Callable[[StripeProvider], Awaitable[object]]
ASKS: dict[str, tuple[str, Ask]] = {
    "page": (OPEN_PAGE, lambda provider: provider.open_page(replace(ORDER, email="secret-of@customer.test"))),
    "look-up": (READ_SESSION, lambda provider: provider.look_up(ASKED)),
    "refund": (REFUND, lambda provider: provider.refund(REFUND_ORDER)),
    "charge": (CHARGE, lambda provider: provider.charge_saved(SAVED)),
}
ERRORS: dict[str, httpx.Response | Exception] = {
    "wrong e-mail": error(400, "invalid_request_error", "email_invalid", param="customer_email"),
    "key": error(401, "invalid_request_error"),
    "internal": error(500, "api_error"),
    "network": httpx.ConnectError(f"secret-of@customer.test {KEY}"),
}


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("problem", ERRORS)
async def test_no_secret_and_nothing_personal_in_an_error_or_log(
    provider: StripeProvider, api: StripeApi, ask: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The library logs Stripe's message, which repeats what was sent."""
    caplog.set_level(logging.INFO)
    endpoint, question = ASKS[ask]
    api.lay(endpoint, ERRORS[problem])
    with pytest.raises((ProviderRefusal, TransientFault)) as caught:
        await question(provider)
    assert caught.value.__suppress_context__
    told = str(caught.value) + repr(caught.value) + caplog.text
    assert "customer.test" not in told
    assert KEY not in told


def test_stripe_is_offered_only_with_a_key() -> None:
    assert open_stripe(PaymentSettings.model_validate({"database_url": "postgresql://x"})) is None
