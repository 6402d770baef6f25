"""Stripe's webhooks: signatures over the raw body, and what events mean."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stripe import WebhookSignature

from services.payment.providers import BadSignature, Notice
from services.payment.providers.stripe import read_event, verify_webhook
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
from shared.clock import SECOND_US
from tests.payment.stripe_api import Answer, dispute, intent, refund, session

SECRET = "whsec_9f8e7d6c5b4a"
AT = 1_795_507_300
NOW_US = AT * SECOND_US
BODY = orjson.dumps({"id": "evt_1", "type": "ping", "created": AT, "data": {"object": {"note": "Trả tiền"}}})
HEADER = WebhookSignature.generate_signature_header(BODY.decode(), SECRET, AT)

MARKS = {"tollkeeper_region": "vn", "tollkeeper_order_id": "order-1", "tollkeeper_tenant_id": "acme"}
USD50 = Money(50_000_000, "USD")


def test_what_stripe_signed_verifies() -> None:
    verify_webhook(BODY, HEADER, [SECRET], NOW_US)
    verify_webhook(BODY, HEADER.replace(",", ", "), ["whsec_new", SECRET], NOW_US)


def test_a_vector_of_another_tool() -> None:
    """Made with openssl: printf '1795507300.{"id":"evt_1"}' | openssl dgst -sha256 -hmac whsec_9f8e7d6c5b4a"""
    signature = "832dca60a64acb0078f6bab86d42d2fb9e36bd6724244c1449ea1675e57ac4e7"
    verify_webhook(b'{"id":"evt_1"}', f"t=1795507300,v1={signature}", [SECRET], NOW_US)


def test_any_signature_of_version_1_and_any_secret_may_match() -> None:
    other = WebhookSignature.generate_signature_header(BODY.decode(), "whsec_old", AT)
    both = f"{other},{HEADER.partition(',')[2]},v0=00"
    for secrets in ([SECRET], ["whsec_old"], ["whsec_x", "whsec_old"]):
        verify_webhook(BODY, both, secrets, NOW_US)
    for secrets in (["whsec_x"], [], [""]):
        with pytest.raises(BadSignature):
            verify_webhook(BODY, both, secrets, NOW_US)


def test_an_empty_secret_opens_nothing() -> None:
    forged = WebhookSignature._compute_signature(f"{AT}.{BODY.decode()}", "")
    with pytest.raises(BadSignature):
        verify_webhook(BODY, f"t={AT},v1={forged}", ["", SECRET], NOW_US)


@pytest.mark.parametrize("seconds", [-300, 0, 300])
def test_five_minutes_are_taken_in_both_directions(seconds: int) -> None:
    verify_webhook(BODY, HEADER, [SECRET], NOW_US + seconds * SECOND_US)


@pytest.mark.parametrize("seconds", [-301, 301, 86_400, -(10**9)])
def test_an_old_signature_and_one_from_the_future_are_refused(seconds: int) -> None:
    with pytest.raises(BadSignature, match="too old, or from the future"):
        verify_webhook(BODY, HEADER, [SECRET], NOW_US + seconds * SECOND_US)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t=,v1=",
        f"t={AT}",
        HEADER.partition(",")[2],
        HEADER.replace("v1", "v0"),
        HEADER.replace("t=", "t=0"),
        HEADER.replace("t=", "t=+"),
        HEADER.replace(str(AT), "١٧٩٥٥٠٧٣٠٠"),
        HEADER.replace(str(AT), "9" * 40),
        HEADER.replace("v1=", "v1=é"),
        "t=1,t=2" + ",v1=0" * 2000,
    ],
)
def test_a_header_of_another_form_is_refused(header: str) -> None:
    with pytest.raises(BadSignature):
        verify_webhook(BODY, header, [SECRET], NOW_US)


@given(st.integers(0, len(BODY) - 1), st.integers(1, 255))
def test_no_byte_of_the_body_can_be_altered(place: int, difference: int) -> None:
    altered = BODY[:place] + bytes([BODY[place] ^ difference]) + BODY[place + 1 :]
    with pytest.raises(BadSignature):
        verify_webhook(altered, HEADER, [SECRET], NOW_US)


@given(st.integers(0, len(HEADER) - 1), st.characters(codec="latin-1"))
def test_no_byte_of_the_header_can_be_altered(place: int, character: str) -> None:
    altered = HEADER[:place] + character + HEADER[place + 1 :]
    if altered != HEADER:
        with pytest.raises(BadSignature):
            verify_webhook(BODY, altered, [SECRET], NOW_US)


def test_a_refused_signature_tells_nothing() -> None:
    signature = HEADER.rpartition("=")[2]
    with pytest.raises(BadSignature) as caught:
        verify_webhook(BODY, HEADER, ["whsec_x"], NOW_US)
    assert signature not in repr(caught.value)
    assert "whsec" not in repr(caught.value)


def event(event_type: str, found: Answer) -> Notice:
    body = {"id": "evt_1", "object": "event", "type": event_type, "created": AT, "data": {"object": found}}
    return read_event(orjson.dumps(body))


def marked(found: Answer, **more: str) -> Answer:
    return found | {"metadata": MARKS | more}


PAID = session(
    status="complete",
    payment_status="paid",
    payment_intent="pi_1",
    customer_details={"name": "An Nguyễn", "email": "an@example.com"},
)
PAID_FACT = Paid("order-1", "stripe:pi_1", USD50, NOW_US, Payer("An Nguyễn", "an@example.com"), "pi_1")
INTENT_FACT = Paid("order-1", "stripe:pi_1", USD50, NOW_US, None, "pi_1")
FAILED = intent(status="requires_payment_method", last_payment_error={"code": "card_declined"})
SAVED = {"tollkeeper_kind": "saved"}

ORDER_EVENTS: list[tuple[str, Answer, Fact | None]] = [
    ("checkout.session.completed", PAID, PAID_FACT),
    (
        "checkout.session.completed",
        PAID | {"payment_status": "unpaid"},
        Attempted("order-1", "waiting for an asynchronous payment method"),
    ),
    ("checkout.session.async_payment_succeeded", PAID, PAID_FACT),
    (
        "checkout.session.async_payment_failed",
        PAID | {"payment_status": "unpaid"},
        Declined("order-1", "async_payment_failed", final=True),
    ),
    ("checkout.session.expired", session(status="expired"), Expired("order-1")),
    ("payment_intent.succeeded", intent(), INTENT_FACT),
    ("payment_intent.processing", intent(status="processing"), Attempted("order-1", "processing")),
    ("payment_intent.payment_failed", FAILED, Declined("order-1", "card_declined", final=False)),
    ("payment_intent.canceled", intent(status="canceled"), None),
]


@pytest.mark.parametrize(("event_type", "found", "fact"), ORDER_EVENTS)
def test_events_about_an_order(event_type: str, found: Answer, fact: Fact | None) -> None:
    notice = event(event_type, marked(found))
    facts = () if fact is None else (fact,)
    assert notice == Notice("evt_1", event_type, "vn", "order-1", facts)
    # Without our marks it is about somebody else's order, whatever else it says.
    for metadata in ({}, None, {"order_id": "order-1"}, {"tollkeeper_region": "vn"}):
        foreign = event(event_type, found | {"metadata": metadata})
        assert foreign.order_id is None
        assert foreign.facts == ()


def test_session_and_intent_tell_of_one_payment() -> None:
    [first] = event("checkout.session.completed", marked(PAID)).facts
    [second] = event("payment_intent.succeeded", marked(intent())).facts
    assert isinstance(first, Paid)
    assert isinstance(second, Paid)
    assert first.payment_id == second.payment_id == "stripe:pi_1"


def test_a_saved_card_has_no_second_attempt() -> None:
    [failed] = event("payment_intent.payment_failed", marked(FAILED, **SAVED)).facts
    assert failed == Declined("order-1", "card_declined", final=True)
    [canceled] = event("payment_intent.canceled", marked(intent(status="canceled"), **SAVED)).facts
    assert canceled == Declined("order-1", "canceled", final=True)


def test_a_card_is_saved_only_where_it_may_be_charged_later() -> None:
    card = {"customer": "cus_1", "payment_method": "pm_1"}
    for usage, saved in (("off_session", SavedCard("cus_1", "pm_1")), ("on_session", None), (None, None)):
        found = marked(intent(setup_future_usage=usage, **card))
        [fact] = event("payment_intent.succeeded", found).facts
        assert isinstance(fact, Paid)
        assert fact.saved_card == saved


PENDING = Refunded("stripe:pi_1", "stripe:re_1", Money(20_000_000, "USD"), "pending")
GONE = Refunded("stripe:pi_1", "stripe:re_1", Money(20_000_000, "USD"), "succeeded")


@pytest.mark.parametrize("event_type", ["refund.created", "refund.updated", "refund.failed", "charge.refund.updated"])
@pytest.mark.parametrize(
    ("changed", "fact"),
    [
        ({"status": "pending"}, PENDING),
        ({"status": "requires_action"}, PENDING),
        ({"status": "succeeded"}, GONE),
        (
            {"status": "failed", "failure_reason": "lost_or_stolen_card"},
            RefundFailed("stripe:pi_1", "stripe:re_1", Money(20_000_000, "USD"), "lost_or_stolen_card"),
        ),
        ({"status": "canceled"}, RefundFailed("stripe:pi_1", "stripe:re_1", Money(20_000_000, "USD"), "canceled")),
    ],
)
def test_a_refund_is_what_its_status_says(event_type: str, changed: Answer, fact: Fact) -> None:
    """Whatever order the events come in: the object tells, not the event's name."""
    assert event(event_type, refund(**changed)).facts == (fact,)
    assert event(event_type, refund(**changed, payment_intent=None)).facts == ()


def opened(withdrawn: bool) -> Disputed:  # noqa: FBT001 - one fact, two columns
    return Disputed("stripe:pi_1", "stripe:dp_1", USD50, withdrawn=withdrawn)


def closed(outcome: str, *, withdrawn: bool) -> DisputeClosed:
    assert outcome in ("won", "lost")
    return DisputeClosed("stripe:pi_1", "stripe:dp_1", "won" if outcome == "won" else "lost", USD50, withdrawn)


@pytest.mark.parametrize(
    ("kind", "found", "fact"),
    [
        ("created", dispute(), opened(withdrawn=False)),
        ("created", dispute(-4600), opened(withdrawn=True)),
        ("created", dispute(status="warning_needs_response"), opened(withdrawn=False)),
        ("funds_withdrawn", dispute(), opened(withdrawn=True)),
        ("updated", dispute(-4600, status="under_review"), opened(withdrawn=True)),
        ("closed", dispute(-4600, status="lost"), closed("lost", withdrawn=True)),
        ("closed", dispute(status="lost"), closed("lost", withdrawn=True)),
        # Won before the money is back, and after it.
        ("closed", dispute(-4600, status="won"), closed("won", withdrawn=True)),
        ("closed", dispute(-4600, 4600, status="won"), closed("won", withdrawn=False)),
        # What came back was converted at another day's rate: less than went, and still all of it.
        ("closed", dispute(-4600, 4550, status="won"), closed("won", withdrawn=False)),
        ("closed", dispute(-4600, 4650, status="won"), closed("won", withdrawn=False)),
        ("funds_reinstated", dispute(-4600, 4550, status="won"), closed("won", withdrawn=False)),
        ("closed", dispute(status="warning_closed"), closed("won", withdrawn=False)),
        ("closed", dispute(status="prevented"), closed("won", withdrawn=False)),
    ],
)
def test_a_dispute_tells_where_its_money_is(kind: str, found: Answer, fact: Fact) -> None:
    assert event(f"charge.dispute.{kind}", found).facts == (fact,)


def test_units_are_read_by_currency() -> None:
    for currency, units, micros in (
        ("jpy", 5000, 5_000_000_000),
        ("vnd", 5000, 5_000_000_000),
        ("isk", 5000, 50_000_000),
    ):
        [fact] = event("checkout.session.completed", marked(PAID | {"currency": currency, "amount_total": units})).facts
        assert isinstance(fact, Paid)
        assert fact.money == Money(micros, currency.upper())


def test_an_unknown_type_is_read_and_says_nothing() -> None:
    for event_type in ("invoice.paid", "charge.succeeded", "payment_intent.created", "customer.created"):
        assert event_type not in EVENT_TYPES
        assert event(event_type, marked(intent())).facts == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b'"evt"',
        b"{}",
        b'{"id":"e","type":"refund.created","created":"x","data":{"object":{}}}',
        b'{"id":"e","type":"refund.created","created":true,"data":{"object":{}}}',
        b'{"id":"e","type":"refund.created","created":1e300,"data":{"object":{}}}',
        b'{"id":"e","type":"refund.created","created":1,"data":{"object":[]}}',
        b'{"id":"e","type":"refund.created","created":1,"data":{"object":{"metadata":[1]}}}',
        b'{"id":"e","type":"refund.created","created":1,"data":[]}',
        b'{"id":"e\\u0000","type":"refund.created","created":1,"data":{"object":{}}}',
        b'{"id":"e","type":["refund.created"],"created":1,"data":{"object":{}}}',
    ],
)
def test_what_is_no_event_is_unreadable(body: bytes) -> None:
    notice = read_event(body)
    assert (notice.facts, notice.problem is None) == ((), False)
    assert notice.event_id.isprintable()


@pytest.mark.parametrize(
    "changed",
    [
        *({"payment_intent": None}, {"currency": "zzz"}, {"currency": 1}),
        *({"amount_total": units} for units in (None, "5000", 0, -5, 2**62, True)),
    ],
)
def test_a_paid_session_must_say_what_was_paid(changed: Answer) -> None:
    notice = event("checkout.session.completed", marked(PAID | changed))
    assert (notice.facts, notice.order_id, notice.region) == ((), "order-1", "vn")
    assert "example.com" not in str(notice.problem)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = [marked(PAID), marked(intent()), marked(FAILED), refund(), dispute(-1)]


@given(st.sampled_from(EVENT_TYPES), st.sampled_from(OBJECTS), st.data())
def test_no_signed_event_breaks_the_reader(event_type: str, found: Answer, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(found)))
    changed = found | {name: data.draw(JSON)}
    notice = event(event_type, changed)
    assert notice.problem is None or not notice.facts
    for fact in notice.facts:
        if isinstance(fact, Paid | Refunded | RefundFailed | Disputed | DisputeClosed):
            assert fact.money.currency == "USD"
