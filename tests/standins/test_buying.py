"""Buying credits from the click to the ledger, through real Kafka and PostgreSQL and both providers' stand-ins."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import stripe

from shared.clock import HOUR_US, MINUTE_US, SECOND_US
from tests.standins.town import STRIPE_KEY, STRIPE_SECRET, VNPAY_SECRET, Town
from tests.system.waiting import wait_for

pytestmark = pytest.mark.process
AGREEMENT = {
    "threshold_micros": 150_000_000_000,
    "target_micros": 300_000_000_000,
    "daily_cap_micros": 1_000_000_000_000,
    "monthly_cap_micros": 2_000_000_000_000,
    "consent": "Charge my saved card whenever my balance is low.",
    "actor": "an@example.com",
}


@pytest.mark.parametrize("provider", ["stripe", "vnpay"])
def test_a_paid_order_is_credited_once_and_the_return_page_says_so(town: Town, provider: str) -> None:
    tenant = f"buyer-{provider}"
    order = town.order(tenant, provider=provider)
    assert (order["state"], town.balance(tenant)) == ("pending", 0)
    back = town.pay(order)
    town.wait_state(order, "credited")
    town.wait_balance(tenant, 100_000)
    page = town.http.get(back.headers["location"])
    assert "Credits added" in page.text
    assert "100,000 VND" in page.text
    assert town.order(tenant, provider=provider, key="same")["order_id"] != order["order_id"]
    receipt = wait_for(lambda: town.history(tenant)[-1]["payments"][0].get("receipt"), what="a receipt")
    assert town.http.get(f"{town.payment}/v1/receipts/{receipt}").is_success


@pytest.mark.parametrize(("provider", "action"), [("stripe", "decline"), ("vnpay", "24"), ("vnpay", "51")])
def test_a_refused_payment_credits_nothing(town: Town, provider: str, action: str) -> None:
    tenant = f"refused-{provider}-{action}"
    order = town.order(tenant, provider=provider)
    town.pay(order, action)
    if provider == "vnpay":
        town.wait_state(order, "failed")
    else:
        # Checkout lets the customer try again, and the second card works.
        assert town.state(order) == "pending"
        town.pay(order)
        town.wait_balance(tenant, 100_000)


def test_a_bank_that_takes_its_time_is_waited_for(town: Town) -> None:
    slow, failing = town.order("slow"), town.order("slow-failing")
    town.pay(slow, "pay-later")
    town.pay(failing, "fail-later")
    wait_for(lambda: town.history("slow")[0]["state"] == "pending", what="a pending order")
    assert town.balance("slow") == 0
    town.move_clock(10 * SECOND_US)
    town.wait_balance("slow", 100_000)
    town.wait_state(failing, "failed")
    assert town.balance("slow-failing") == 0


@pytest.mark.parametrize("provider", ["stripe", "vnpay"])
def test_two_events_for_one_fact_and_repeats_of_each_are_one_credit(town: Town, provider: str) -> None:
    tenant = f"twice-{provider}"
    if provider == "stripe":
        town.control("stripe", "/events/double", times=3)
    town.control(provider, "/callbacks/duplicate", times=6, copies=4)
    order = town.order(tenant, provider=provider)
    town.pay(order)
    town.wait_state(order, "credited")
    callbacks = wait_for(lambda: settled_callbacks(town, provider), what="every callback delivered")
    for callback in callbacks[-5:]:
        town.control(provider, f"/callbacks/{callback['id']}/repeat")
    town.wait_balance(tenant, 100_000)
    assert len(town.history(tenant)[0]["payments"]) == 1


def settled_callbacks(town: Town, provider: str) -> list[dict[str, object]]:
    found = town.http.get(f"{town.standin(provider)}/_control/callbacks").json()["callbacks"]
    return list(found) if all(item["state"] in ("delivered", "lost") for item in found) else []


@pytest.mark.parametrize("provider", ["stripe", "vnpay"])
def test_a_lost_callback_is_healed_by_asking(town: Town, provider: str) -> None:
    tenant = f"lost-{provider}"
    order = town.order(tenant, provider=provider)
    town.control(provider, "/callbacks/lose", times=9)
    town.pay(order)
    town.control(provider, "/callbacks/lose", times=0)
    assert town.state(order) == "pending"
    town.move_clock(3 * MINUTE_US)
    town.wait_state(order, "credited")
    town.wait_balance(tenant, 100_000)
    assert town.reconcile() == []


def test_an_hour_without_the_provider_loses_no_order(town: Town) -> None:
    orders = [town.order(f"outage-{number}", provider=name) for number, name in enumerate(("stripe", "vnpay") * 2)]
    for provider in ("stripe", "vnpay"):
        town.control(provider, "/callbacks/lose", times=9)
    for order in orders[:2]:
        town.pay(order)
    for provider in ("stripe", "vnpay"):
        town.control(provider, "/callbacks/lose", times=0)
        town.kill_standin(provider)
    for _ in range(6):
        town.move_clock(10 * MINUTE_US)
    assert {town.state(order) for order in orders} == {"pending"}
    for provider in ("stripe", "vnpay"):
        town.start_standin(provider)
    for order, state in zip(orders, ("credited", "credited", "pending", "pending"), strict=True):
        town.reconcile()
        town.wait_state(order, state)
    # What nobody paid expires only after its page was closed and the provider was asked once more.
    town.move_clock(2 * HOUR_US)
    for order in orders[2:]:
        town.wait_state(order, "expired")
    assert town.balance("outage-0") == town.balance("outage-1") == 100_000


@pytest.mark.parametrize("provider", ["stripe", "vnpay"])
def test_another_amount_than_asked_waits_for_an_operator_and_is_credited_once(town: Town, provider: str) -> None:
    tenant = f"other-{provider}"
    order = town.order(tenant, provider=provider)
    town.control(provider, "/capture", amount=90_000 if provider == "stripe" else 9_000_000)
    town.pay(order)
    town.wait_state(order, "mismatched")
    [item] = town.queue(order)
    body = {"action": "credit", "amount_micros": 90_000_000_000, "reason": "paid less", "actor": "kim"}
    for _ in range(2):
        assert town.http.post(f"{town.payment}/v1/queue/{item['item_id']}/settle", json=body).is_success
    town.wait_state(order, "credited")
    town.wait_balance(tenant, 90_000)


def test_refunds_and_disputes_follow_the_money_at_the_provider(town: Town) -> None:
    order = town.order("reversed")
    town.pay(order)
    town.wait_state(order, "credited")
    payment_id = town.payment_id(order)
    assert town.refund(payment_id, "r-1", amount_micros=30_000_000_000).status_code == 201
    assert town.refund(payment_id, "r-1", amount_micros=30_000_000_000).status_code == 201
    town.wait_balance("reversed", 70_000)
    assert town.refund(payment_id, "r-2", amount_micros=80_000_000_000).status_code == 409
    intent = payment_id.removeprefix("stripe:")
    dispute = town.control("stripe", "/disputes", payment_intent=intent, amount=70_000, withdrawn=False)
    town.wait_state(order, "disputed")
    assert town.balance("reversed") == 70_000
    town.control("stripe", f"/disputes/{dispute['id']}/withdraw")
    town.wait_balance("reversed", 0)
    town.control("stripe", f"/disputes/{dispute['id']}/close", status="won")
    town.wait_balance("reversed", 70_000)
    town.wait_state(order, "credited")
    [refund] = town.truth("stripe")[0]["refunds"]
    town.control("stripe", f"/refunds/{refund['id']}/fail")
    town.wait_balance("reversed", 100_000)
    assert town.refund(payment_id, "r-3", full=True).status_code == 201
    town.wait_state(order, "refunded")
    town.wait_balance("reversed", 0)


def test_a_refund_at_vnpay_is_sent_and_taken_back_from_the_credit(town: Town) -> None:
    order = town.order("reversed-vnpay", provider="vnpay")
    town.pay(order)
    town.wait_state(order, "credited")
    answer = town.refund(town.payment_id(order), "r-1", full=True)
    assert answer.status_code == 201, answer.text
    town.wait_state(order, "refunded")
    town.wait_balance("reversed-vnpay", 0)
    [payment] = [item for item in town.truth("vnpay") if item["reference"] == order["order_id"].replace("-", "")]
    assert [item["amount"] for item in payment["refunds"]] == [10_000_000]


def test_a_payment_in_another_currency_is_quoted_and_credited_at_the_orders_rate(town: Town) -> None:
    rate = {"from": "USD", "to": "VND", "rate": "25400.5", "date": "2026-01-01", "actor": "kim"}
    assert town.http.put(f"{town.payment}/v1/exchange-rates", json=rate).is_success
    asked = {"region": "vn", "amount": "4.00", "currency": "USD"}
    quote = town.http.post(f"{town.payment}/v1/quotes", json=asked).json()
    order = town.order("abroad", "4.00", currency="USD", quote_id=quote["quote_id"])
    town.http.put(f"{town.payment}/v1/exchange-rates", json=rate | {"rate": "1"})
    town.pay(order)
    town.wait_balance("abroad", 101_602)
    assert town.truth("stripe")[0]["amount"] == 400


def test_two_hundred_copies_of_one_webhook_at_once_are_one_credit(town: Town) -> None:
    order = town.order("crowd")
    town.control("stripe", "/callbacks/hold")
    town.pay(order)
    standin = town.standin("stripe")
    held = town.http.get(f"{standin}/_control/callbacks").json()["callbacks"]
    event_id = next(
        item["payload"] for item in held if (item["about"], item["state"]) == ("checkout.session.completed", "held")
    )
    headers = {"Authorization": f"Bearer {STRIPE_KEY}"}
    body = json.dumps(town.http.get(f"{standin}/v1/events/{event_id}", headers=headers).json())
    stamp = town.cluster.now_us // SECOND_US
    signature = stripe.WebhookSignature.generate_signature_header(body, STRIPE_SECRET, stamp)

    def send(_number: int) -> int:
        headers = {"stripe-signature": signature}
        return town.http.post(f"{town.payment}/webhooks/stripe", content=body, headers=headers).status_code

    with ThreadPoolExecutor(32) as threads:
        assert set(threads.map(send, range(200))) == {200}
    town.control("stripe", "/callbacks/release", reverse=True)
    town.wait_state(order, "credited")
    town.wait_balance("crowd", 100_000)
    assert len(town.history("crowd")[0]["payments"]) == 1


def test_a_callback_that_nobody_signed_changes_nothing(town: Town) -> None:
    order = town.order("forged", provider="vnpay")
    reference = order["order_id"].replace("-", "")
    paid = "vnp_Amount=10000000&vnp_ResponseCode=00&vnp_TransactionStatus=00&vnp_SecureHash=00"
    forged = f"vnp_TxnRef={reference}&{paid}"
    answer = town.http.get(f"{town.payment}/webhooks/vnpay?{forged}")
    assert answer.json() == {"RspCode": "97", "Message": "Invalid signature"}
    event = {"id": "evt_x", "type": "payment_intent.succeeded", "created": 1, "data": {"object": {}}}
    answer = town.http.post(f"{town.payment}/webhooks/stripe", json=event, headers={"stripe-signature": "t=1,v1=00"})
    assert answer.status_code == 400
    assert town.state(order) == "pending"


def test_a_saved_card_is_charged_as_agreed_once(town: Town) -> None:
    order = town.order("saver", save_card=True)
    town.pay(order)
    town.wait_balance("saver", 100_000)
    url = f"{town.payment}/v1/accounts/vn/saver/auto-top-up"
    assert town.http.put(url.replace("saver", "nobody"), json=AGREEMENT).status_code == 409
    wait_for(lambda: town.http.put(url, json=AGREEMENT).is_success, what="the saved card is known")
    assert town.http.get(url).json()["suspended_reason"] is None
    town.wait_balance("saver", 300_000)
    charged = [item for item in town.truth("stripe") if item["amount"] == 200_000]
    assert len(charged) == 1
    assert town.http.delete(url).status_code == 204
    assert town.http.get(url).status_code == 404


def test_automatic_top_up_is_suspended_where_the_bank_asks_for_the_customer(town: Town) -> None:
    town.pay(town.order("asked", save_card=True), "pay-asking")
    town.wait_balance("asked", 100_000)
    url = f"{town.payment}/v1/accounts/vn/asked/auto-top-up"
    wait_for(lambda: town.http.put(url, json=AGREEMENT).is_success, what="the saved card is known")
    wait_for(lambda: town.http.get(url).json()["suspended_reason"] is not None, what="the suspension")
    assert town.http.get(url).json()["suspended_reason"] == "authentication_required"
    assert town.balance("asked") == 100_000
    assert town.http.delete(url).status_code == 204


@pytest.mark.parametrize("change", ["the consent is withdrawn", "less is agreed to"])
def test_what_was_decided_during_an_outage_is_decided_again_after_it(town: Town, change: str) -> None:
    """The card is charged by the agreement in force, or not at all."""
    tenant = "withdrawer" if change == "the consent is withdrawn" else "changer"
    town.pay(town.order(tenant, save_card=True))
    town.wait_balance(tenant, 100_000)
    url = f"{town.payment}/v1/accounts/vn/{tenant}/auto-top-up"
    statement = f"select state, reason from auto_top_up_attempt where tenant_id = '{tenant}'"
    town.control("stripe", "/down", seconds=300, how="503")
    wait_for(lambda: town.http.put(url, json=AGREEMENT).is_success, what="the saved card is known")
    wait_for(lambda: town.cluster.query("payment", statement) == [("open", None)], what="an attempt is open")
    wait_for(lambda: f"vn/{tenant}" in town.cluster.logs(), what="the charge has failed")
    if change == "the consent is withdrawn":
        assert town.http.delete(url).status_code == 204
        ended = [("withdrawn", "consent withdrawn")]
    else:
        caps = {"daily_cap_micros": 60_000 * 10**6, "monthly_cap_micros": 60_000 * 10**6}
        small = AGREEMENT | {"threshold_micros": 10_000 * 10**6, "target_micros": 60_000 * 10**6} | caps
        assert town.http.put(url, json=small).is_success
        ended = [("withdrawn", "consent withdrawn")]
    town.control("stripe", "/up")
    town.move_clock(2 * MINUTE_US)
    wait_for(
        lambda: town.cluster.query("payment", statement) == ended,
        what=lambda: f"{ended}: {town.cluster.query('payment', statement)}\n{town.cluster.logs()}",
    )
    assert town.balance(tenant) == 100_000
    found = town.cluster.query("payment", statement.replace("state, reason", "order_id"))
    assert {item["order_id"] for item in town.truth("stripe")}.isdisjoint(order_id for (order_id,) in found)


def test_money_that_comes_after_a_refusal_is_credited(town: Town) -> None:
    order = town.order("after-all", provider="vnpay")
    town.pay(order, "51")
    town.wait_state(order, "failed")
    town.control("vnpay", f"/orders/{order['order_id'].replace('-', '')}/result", code="00")
    town.wait_state(order, "credited")
    town.wait_balance("after-all", 100_000)


def test_at_the_end_provider_orders_ledger_and_events_agree(town: Town) -> None:
    """After all the tests before it: nothing differs, and the books are in order."""
    assert [kind for kind in town.reconcile() if kind != "healed"] == []
    assert town.reconcile() == []
    assert town.cluster.audit() == []
    statement = "select count(*) from payment where credit_micros is not null and credited_at is null"
    wait_for(lambda: town.cluster.query("payment", statement) == [(0,)], what="every credit acknowledged")
    ours = {row[0]: row[1] for row in town.cluster.query("payment", "select payment_id, paid_micros from payment")}
    micros = {"vnd": 1_000_000, "usd": 10_000}
    real = {
        f"stripe:{item['payment_intent']}": item["amount"] * micros[item["currency"]] for item in town.truth("stripe")
    }
    real |= {f"vnpay:{item['reference']}:{item['number']}": item["amount"] * 10_000 for item in town.truth("vnpay")}
    assert ours == real


def test_no_secret_signature_or_personal_detail_is_in_a_log_or_an_event(town: Town) -> None:
    logs = "".join(path.read_text() for path in town.cluster.home.glob("*.log"))
    events = str(town.cluster.query("payment", "select convert_from(value, 'UTF8') from outbox"))
    for hidden in (STRIPE_SECRET, STRIPE_KEY, VNPAY_SECRET, "an@example.com", "vnp_SecureHash", "v1=", "whsec"):
        assert hidden not in logs, hidden
        assert hidden not in events, hidden
