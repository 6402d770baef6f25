"""The stand-in of Stripe by itself: what the real client, the real signature check and a customer find."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import stripe

from shared.clock import HOUR_US, MINUTE_US, SECOND_US
from tests.standins.alone import STRIPE_KEY, STRIPE_SECRET, Standin
from tests.support.infrastructure import temporary_home
from tests.system.waiting import wait_for

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def running() -> Iterator[Standin]:
    with temporary_home() as home, Standin("stripe", home) as standin:
        yield standin


@pytest.fixture
def standin(running: Standin) -> Standin:
    """With nothing under way from the test before, and a merchant who takes everything."""
    running.merchant.answers = [(200, "{}")]
    running.control("/up")
    running.control("/callbacks/release")
    for trouble in ("lose", "duplicate", "delay"):
        running.control(f"/callbacks/{trouble}", times=0)
    running.pass_time(10 * SECOND_US)
    wait_for(lambda: not pending_refunds(running), what="refunds on their way")
    wait_for(lambda: not running.callbacks("waiting"), what=lambda: f"quiet: {running.callbacks('waiting')}")
    return running


def pending_refunds(standin: Standin) -> list[dict[str, Any]]:
    payments = standin.http.get("/_control/truth").json()["payments"]
    return [refund for payment in payments for refund in payment["refunds"] if refund["status"] == "pending"]


@pytest.fixture
def api(standin: Standin) -> Any:
    requests = stripe.UrllibClient()
    return stripe.StripeClient(STRIPE_KEY, base_addresses={"api": standin.url}, http_client=requests).v1


def session_params(standin: Standin, **fields: Any) -> dict[str, Any]:
    price = {"currency": "usd", "unit_amount": 5000, "product_data": {"name": "Credits"}}
    marks = {"tollkeeper_order_id": "order-1"}
    return {
        "mode": "payment",
        "line_items": [{"price_data": price, "quantity": 1}],
        "success_url": f"{standin.merchant.url}/thanks?session={{CHECKOUT_SESSION_ID}}",
        "cancel_url": f"{standin.merchant.url}/back",
        "metadata": marks,
        "payment_intent_data": {"metadata": marks},
        **fields,
    }


def pay(standin: Standin, session: Any, action: str = "pay") -> httpx.Response:
    return standin.http.post(session.url, data={"action": action, "email": "an@example.com", "name": "An"})


def paid_intent(standin: Standin, api: Any) -> str:
    session = api.checkout.sessions.create(params=session_params(standin))
    pay(standin, session)
    return str(api.checkout.sessions.retrieve(session.id).payment_intent)


def kinds(api: Any, about: str) -> list[str]:
    """The types of the events about an object, oldest first."""
    events = api.events.list(params={"limit": 100}).data
    return [event.type for event in reversed(events) if event.data.object["id"] == about]


def test_a_customer_pays_and_the_webhooks_verify(standin: Standin, api: Any) -> None:
    before = len(standin.merchant.received)
    session = api.checkout.sessions.create(params=session_params(standin))
    assert (session.status, session.payment_status, session.payment_intent) == ("open", "unpaid", None)
    assert "50.00 USD" in standin.http.get(session.url).text
    back = pay(standin, session)
    assert back.headers["location"] == f"{standin.merchant.url}/thanks?session={session.id}"
    expanded = {"expand": ["payment_intent.latest_charge"]}
    paid = api.checkout.sessions.retrieve(session.id, params=expanded)
    assert (paid.status, paid.payment_status) == ("complete", "paid")
    assert paid.payment_intent.latest_charge.amount_captured == paid.payment_intent.amount_received == 5000
    assert paid.payment_intent.metadata["tollkeeper_order_id"] == "order-1"
    received = standin.wait_callbacks(before + 4)[before:]
    for callback in received:
        # The check of its age goes by the system's clock, the stand-in here by a test's.
        stripe.WebhookSignature.verify_header(
            callback.body.decode(), callback.headers["stripe-signature"], STRIPE_SECRET, tolerance=None
        )
        altered = callback.body.replace(b"5000", b"9000")
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.WebhookSignature.verify_header(
                altered.decode(), callback.headers["stripe-signature"], STRIPE_SECRET, tolerance=None
            )
    told = [json.loads(callback.body)["type"] for callback in received]
    assert sorted(told) == [
        "charge.succeeded",
        "checkout.session.completed",
        "payment_intent.created",
        "payment_intent.succeeded",
    ]
    assert "closed" in standin.http.get(session.url or f"/pay/{session.id}").text


def test_a_bank_debit_is_unpaid_until_the_bank_decides(standin: Standin, api: Any) -> None:
    for action, outcome, status in (("pay-later", "succeeded", "paid"), ("fail-later", "failed", "unpaid")):
        before = len(standin.merchant.received)
        session = api.checkout.sessions.create(params=session_params(standin))
        pay(standin, session, action)
        waiting = api.checkout.sessions.retrieve(session.id)
        assert (waiting.status, waiting.payment_status) == ("complete", "unpaid")
        assert api.payment_intents.retrieve(waiting.payment_intent).status == "processing"
        standin.pass_time(10 * SECOND_US)
        standin.wait_callbacks(before + 6)
        told = ["checkout.session.completed", f"checkout.session.async_payment_{outcome}"]
        assert kinds(api, session.id) == told
        assert api.checkout.sessions.retrieve(session.id).payment_status == status


def test_a_declined_card_leaves_the_page_open(standin: Standin, api: Any) -> None:
    session = api.checkout.sessions.create(params=session_params(standin))
    assert "Your card was declined." in pay(standin, session, "decline").text
    assert pay(standin, session, "cancel").headers["location"] == f"{standin.merchant.url}/back"
    tried = api.checkout.sessions.retrieve(session.id)
    assert (tried.status, api.payment_intents.retrieve(tried.payment_intent).status) == (
        "open",
        "requires_payment_method",
    )
    pay(standin, session)
    assert api.checkout.sessions.retrieve(session.id).payment_status == "paid"


def test_a_session_expires_by_itself_and_when_asked(standin: Standin, api: Any) -> None:
    expires_at = standin.clock.now_us() // SECOND_US + 1800
    left, closed = (api.checkout.sessions.create(params=session_params(standin, expires_at=expires_at)) for _ in "ab")
    assert api.checkout.sessions.expire(closed.id).status == "expired"
    with pytest.raises(stripe.InvalidRequestError, match="Only Checkout Sessions"):
        api.checkout.sessions.expire(closed.id)
    standin.pass_time(31 * MINUTE_US)
    wait_for(lambda: kinds(api, left.id) == ["checkout.session.expired"], what="the session's end")
    assert api.checkout.sessions.retrieve(left.id).url is None
    expired = api.checkout.sessions.list(params={"status": "expired", "limit": 100}).data
    assert {left.id, closed.id} <= {item.id for item in expired}


def test_a_repeated_key_answers_the_same_and_refuses_other_parameters(standin: Standin, api: Any) -> None:
    options = {"idempotency_key": "one-order"}
    first = api.checkout.sessions.create(params=session_params(standin), options=options)
    again = api.checkout.sessions.create(params=session_params(standin), options=options)
    assert first.id == again.id
    with pytest.raises(stripe.IdempotencyError):
        api.checkout.sessions.create(params=session_params(standin, client_reference_id="x"), options=options)
    standin.pass_time(25 * HOUR_US)
    assert api.checkout.sessions.create(params=session_params(standin), options=options).id != first.id


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"colour": "red"}, "parameter_unknown"),
        ({"payment_intent_data": {"colour": "red"}}, "parameter_unknown"),
        ({"expires_at": 1}, None),
        ({"payment_intent_data": {"setup_future_usage": "sometimes"}}, None),
        ({"line_items": [{"price_data": {"currency": "usd", "unit_amount": 1, "product_data": {"name": "x"}}}]},
         "amount_too_small"),
        ({"line_items": [{"price_data": {"currency": "isk", "unit_amount": 5050, "product_data": {"name": "x"}}}]},
         None),
    ],
)  # fmt: skip
def test_what_stripe_refuses_is_refused(standin: Standin, api: Any, fields: dict[str, Any], code: str | None) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        api.checkout.sessions.create(params=session_params(standin, **fields))
    assert refused.value.code == code


def test_only_the_key_is_let_in_and_only_what_exists_is_found(standin: Standin, api: Any) -> None:
    assert standin.http.get("/v1/events").status_code == 401
    headers = {"Authorization": f"Bearer {STRIPE_KEY}", "Stripe-Version": "2019-01-01"}
    assert standin.http.get("/v1/events", headers=headers).status_code == 400
    with pytest.raises(stripe.InvalidRequestError) as missing:
        api.payment_intents.retrieve("pi_none")
    assert (missing.value.code, missing.value.http_status) == ("resource_missing", 404)


def test_lists_are_paged_and_filtered(standin: Standin, api: Any) -> None:
    intents = [paid_intent(standin, api) for _ in range(3)]
    pages = api.payment_intents.list(params={"limit": 2})
    assert [item.id for item in pages.data] == intents[:0:-1]
    assert pages.has_more
    listed = [item.id for item in pages.auto_paging_iter()]
    assert listed[:3] == intents[::-1]
    assert len(set(listed)) == len(listed)
    now = standin.clock.now_us() // SECOND_US
    assert api.events.list(params={"created": {"gt": now}}).data == []
    succeeded = api.events.list(params={"types": ["payment_intent.succeeded"], "created": {"gte": now}, "limit": 100})
    assert {intents[0], intents[1], intents[2]} <= {event.data.object["id"] for event in succeeded.data}
    assert {event.type for event in succeeded.data} == {"payment_intent.succeeded"}


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("pm_card_chargeDeclined", "card_declined"),
        ("pm_card_chargeDeclinedInsufficientFunds", "card_declined"),
        ("pm_card_authenticationRequired", "authentication_required"),
    ],
)
def test_a_test_card_ends_as_stripe_says(api: Any, method: str, code: str) -> None:
    customer = api.customers.create(params={"email": "an@example.com"})
    params = {"amount": 500, "currency": "usd", "customer": customer.id, "off_session": True, "confirm": True}
    options = {"idempotency_key": f"top-up-{method}"}
    for _ in range(2):
        with pytest.raises(stripe.CardError) as declined:
            api.payment_intents.create(params=params | {"payment_method": method}, options=options)
        assert declined.value.code == code
    assert declined.value.error is not None
    assert declined.value.error.payment_intent is not None
    intent_id = declined.value.error.payment_intent.id
    assert kinds(api, intent_id) == ["payment_intent.created", "payment_intent.payment_failed"]
    confirmed = api.payment_intents.confirm(intent_id, params={"payment_method": "pm_card_visa"})
    assert confirmed.status == "succeeded"


@pytest.mark.parametrize(("action", "works"), [("pay", True), ("pay-asking", False)])
def test_a_card_saved_at_checkout_is_charged_off_session(standin: Standin, api: Any, action: str, works: bool) -> None:  # noqa: FBT001 - a case's outcome
    keep = {"payment_intent_data": {"setup_future_usage": "off_session"}, "customer_creation": "always"}
    session = api.checkout.sessions.create(params=session_params(standin, **keep))
    pay(standin, session, action)
    intent = api.payment_intents.retrieve(api.checkout.sessions.retrieve(session.id).payment_intent)
    saved = api.payment_methods.list(params={"customer": intent.customer}).data
    assert [item.id for item in saved] == [intent.payment_method]
    params = {
        "amount": 700,
        "currency": "usd",
        "customer": intent.customer,
        "payment_method": intent.payment_method,
        "off_session": True,
        "confirm": True,
    }
    if works:
        assert api.payment_intents.create(params=params).amount_received == 700
        return
    with pytest.raises(stripe.CardError) as asked:
        api.payment_intents.create(params=params)
    assert asked.value.code == "authentication_required"


def test_refunds_arrive_or_fail_and_never_exceed_the_payment(standin: Standin, api: Any) -> None:
    intent = paid_intent(standin, api)
    refund = api.refunds.create(params={"payment_intent": intent, "amount": 2000})
    assert refund.status == "pending"
    with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded"):
        api.refunds.create(params={"payment_intent": intent, "amount": 3001})
    standin.pass_time(5 * SECOND_US)
    wait_for(lambda: api.refunds.retrieve(refund.id).status == "succeeded", what="the refund")
    standin.control(f"/refunds/{refund.id}/fail")
    assert kinds(api, refund.id) == ["refund.created", "refund.updated", "refund.updated", "refund.failed"]
    assert api.refunds.create(params={"payment_intent": intent}).amount == 5000
    with pytest.raises(stripe.InvalidRequestError) as done:
        api.refunds.create(params={"payment_intent": intent})
    assert done.value.code == "charge_already_refunded"
    assert [item.status for item in api.refunds.list(params={"payment_intent": intent}).data] == ["pending", "failed"]


def test_a_dispute_takes_the_money_and_gives_it_back(standin: Standin, api: Any) -> None:
    intent = paid_intent(standin, api)
    dispute = standin.control("/disputes", payment_intent=intent, withdrawn=False)
    assert dispute["status"] == "warning_needs_response"
    standin.control(f"/disputes/{dispute['id']}/withdraw")
    with pytest.raises(stripe.InvalidRequestError, match="charged back"):
        api.refunds.create(params={"payment_intent": intent})
    standin.control(f"/disputes/{dispute['id']}/close", status="won")
    steps = ("created", "funds_withdrawn", "closed", "funds_reinstated")
    assert kinds(api, dispute["id"]) == [f"charge.dispute.{step}" for step in steps]
    moves = api.disputes.retrieve(dispute["id"]).balance_transactions
    assert [move["amount"] for move in moves] == [-5000, 5000]
    [told] = [
        item for item in standin.http.get("/_control/truth").json()["payments"] if item["payment_intent"] == intent
    ]
    assert [item["status"] for item in told["disputes"]] == ["won"]


@pytest.mark.parametrize("answer", [(500, ""), (307, ""), (400, "{}")])
def test_what_is_not_taken_comes_again_later(standin: Standin, api: Any, answer: tuple[int, str]) -> None:
    before = len(standin.merchant.received)
    standin.merchant.answers = [answer]
    expires_at = standin.clock.now_us() // SECOND_US + 1800
    session = api.checkout.sessions.create(params=session_params(standin, expires_at=expires_at))
    api.checkout.sessions.expire(session.id)
    standin.wait_callbacks(before + 1)
    assert [item["last"] for item in standin.callbacks("waiting")] == [f"HTTP {answer[0]}"]
    standin.merchant.answers = [(200, "{}")]
    standin.pass_time(6 * SECOND_US)
    first, second = standin.wait_callbacks(before + 2)[before:]
    assert first.body == second.body
    # A redirect is not followed, and each attempt is signed at its own time.
    assert {first.path, second.path} == {"/webhooks/stripe"}
    assert first.headers["stripe-signature"] != second.headers["stripe-signature"]


def test_callbacks_get_lost_doubled_late_and_disordered_when_asked(standin: Standin, api: Any) -> None:
    def expire_one() -> str:
        session = api.checkout.sessions.create(params=session_params(standin))
        return str(api.checkout.sessions.expire(session.id).id)

    before = len(standin.merchant.received)
    standin.control("/callbacks/lose", times=1)
    lost = expire_one()
    assert kinds(api, lost) == ["checkout.session.expired"]
    standin.control("/callbacks/duplicate", times=1, copies=2)
    expire_one()
    standin.wait_callbacks(before + 3)
    standin.control("/events/double", times=1)
    twice = expire_one()
    ids = {json.loads(item.body)["id"] for item in standin.wait_callbacks(before + 5)[before + 3 :]}
    assert len(ids) == 2
    assert kinds(api, twice) == ["checkout.session.expired"] * 2
    standin.control("/callbacks/delay", times=1, seconds=60)
    expire_one()
    assert len(standin.callbacks("waiting")) == 1
    standin.pass_time(MINUTE_US)
    standin.wait_callbacks(before + 6)
    standin.control("/callbacks/hold")
    order = [expire_one() for _ in range(3)]
    assert len(standin.callbacks("held")) == 3
    standin.control("/callbacks/release", reverse=True)
    came = [json.loads(item.body)["data"]["object"]["id"] for item in standin.merchant.received[before + 6 :]]
    assert came == order[::-1]
    assert lost not in {json.loads(item.body)["data"]["object"]["id"] for item in standin.merchant.received}


def refuses(standin: Standin) -> bool:
    try:
        httpx.get(standin.url, trust_env=False)
    except httpx.ConnectError:
        return True
    return False


def test_it_is_down_when_asked_and_forgets_nothing_when_killed(standin: Standin, api: Any) -> None:
    intent = paid_intent(standin, api)
    standin.control("/down", seconds=60)
    with pytest.raises(stripe.APIError):
        api.payment_intents.retrieve(intent)
    standin.control("/up")
    assert api.payment_intents.retrieve(intent).status == "succeeded"
    standin.control("/down", seconds=1, how="refuse")
    wait_for(lambda: refuses(standin), what="nobody listening")
    wait_for(standin.answers, what="somebody listening")
    wait_for(lambda: not standin.callbacks("waiting"), what="callbacks of before")
    standin.restart()
    assert api.payment_intents.retrieve(intent).status == "succeeded"
    assert "payment_intent.succeeded" in kinds(api, intent)
