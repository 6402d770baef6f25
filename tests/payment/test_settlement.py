"""The queue, refunds and disputes on real PostgreSQL: money that matched nothing is settled once, and never lost."""

import asyncio

import pytest

from services.payment.app.refunds import RefundWish
from services.payment.app.settlement import SettlementWish
from services.payment.providers import ProviderRefusal
from services.payment.rules.facts import DisputeClosed, Disputed, Refunded, RefundFailed
from services.payment.store.orders import StoredOrder
from shared.clock import MINUTE_US
from shared.errors import Refusal, TransientFault
from tests.payment.shop import Shop, paid, vnd

CREDIT = SettlementWish("credit", "paid by bank, seen on the statement", "an operator", 249_999_000_000)
REFUND = SettlementWish("refund", "not ours to keep", "an operator")
DISMISS = SettlementWish("dismiss", "test payment", "an operator")


async def mismatched(shop: Shop) -> tuple[StoredOrder, str]:
    """An order that was paid one dong short, and the item that waits for it."""
    order = await shop.order()
    await shop.receive("evt_1", paid(order, money=vnd(249_999)), order=order)
    [(item_id,)] = await shop.rows("select item_id from queue_item")
    return order, item_id


async def credited(shop: Shop, payment_id: str = "stripe:pi_1") -> StoredOrder:
    order = await shop.order()
    await shop.receive(f"evt_{payment_id}", paid(order, payment_id), order=order)
    await shop.acknowledge(payment_id)
    return order


async def test_a_settlement_credits_under_the_payments_own_id_and_no_replay_credits_again(shop: Shop) -> None:
    order, item_id = await mismatched(shop)
    items = await asyncio.gather(*(shop.service.settlement.settle(item_id, CREDIT) for _ in range(10)))
    assert {item.resolution for item in items} == {"credit"}
    await shop.receive("evt_1b", paid(order, money=vnd(249_999)), order=order)
    [event] = await shop.events()
    assert (event["id"], event["data"]["amount_micros"]) == ("captured/stripe:pi_1", 249_999_000_000)
    assert event["data"]["order_id"] == order.order_id
    await shop.acknowledge("stripe:pi_1")
    assert await shop.state(order) == "credited"
    causes = await shop.rows("select cause from order_transition order by number")
    assert causes[1] == ("settlement by an operator: paid by bank, seen on the statement",)
    with pytest.raises(Refusal, match="already-settled"):
        await shop.service.settlement.settle(item_id, DISMISS)


async def test_a_settlement_by_refund_ends_the_order(shop: Shop) -> None:
    order, item_id = await mismatched(shop)
    assert (await shop.service.settlement.settle(item_id, REFUND)).resolution == "refund"
    assert await shop.state(order) == "refunded"
    assert await shop.told() == [f"failed/{order.order_id}"]
    [sent] = shop.stripe.refunds.values()
    assert (sent.money, sent.paid) == (vnd(249_999), vnd(249_999))
    # The refund fails after all: the money is with us again, and somebody must look at it again.
    await shop.apply(RefundFailed("stripe:pi_1", f"stripe:re_{sent.request_id}", vnd(249_999), "closed account"))
    assert await shop.state(order) == "mismatched"
    [(again,)] = await shop.rows("select item_id from queue_item where settled_at is null and kind = 'refund-failed'")
    await shop.service.settlement.settle(again, CREDIT)
    assert await shop.state(order) == "paid"
    assert await shop.told() == [f"failed/{order.order_id}", "captured/stripe:pi_1"]


async def test_a_dismissal_ends_the_order_without_credit(shop: Shop) -> None:
    order, item_id = await mismatched(shop)
    await shop.service.settlement.settle(item_id, DISMISS)
    assert await shop.state(order) == "failed"
    assert await shop.told() == [f"failed/{order.order_id}"]
    # The right money may still come.
    await shop.receive("evt_2", paid(order, "stripe:pi_2"), order=order)
    assert await shop.state(order) == "paid"


async def test_a_refund_at_the_providers_own_page_settles_the_item(shop: Shop) -> None:
    order, item_id = await mismatched(shop)
    await shop.apply(Refunded("stripe:pi_1", "stripe:re_1", vnd(249_999), "succeeded"))
    assert await shop.state(order) == "refunded"
    assert await shop.rows("select resolution, actor from queue_item") == [("refunded", "provider")]
    with pytest.raises(Refusal, match="already-settled"):
        await shop.service.settlement.settle(item_id, CREDIT)


async def test_money_that_moved_is_not_credited(shop: Shop) -> None:
    _, item_id = await mismatched(shop)
    await shop.apply(Refunded("stripe:pi_1", "stripe:re_1", vnd(1), "succeeded"))
    with pytest.raises(Refusal, match="money-moved"):
        await shop.service.settlement.settle(item_id, CREDIT)
    assert (await shop.service.settlement.settle(item_id, REFUND)).resolution == "refund"


async def test_a_payment_of_an_unknown_order_is_credited_where_the_operator_says(shop: Shop) -> None:
    order = await shop.order()
    lost = paid(order, order_id="order-of-a-lost-database")
    await shop.apply(lost)
    [(item_id,)] = await shop.rows("select item_id from queue_item")
    with pytest.raises(Refusal, match="account-needed"):
        await shop.service.settlement.settle(item_id, CREDIT)
    wish = SettlementWish("credit", "found in the mail", "an operator", 7, "jp", "acme")
    await shop.service.settlement.settle(item_id, wish)
    [event] = await shop.events()
    assert event["subject"] == "jp/acme"
    assert (event["data"]["amount_micros"], event["data"]["currency"], event["data"]["order_id"]) == (7, "JPY", None)


async def test_a_duplicate_is_refunded_without_touching_the_order(shop: Shop) -> None:
    order = await credited(shop)
    await shop.receive("evt_2", paid(order, "stripe:pi_2"), order=order)
    [(item_id,)] = await shop.rows("select item_id from queue_item")
    with pytest.raises(Refusal, match="account-differs"):
        await shop.service.settlement.settle(item_id, SettlementWish("credit", "r", "a", 5, "jp", "acme"))
    await shop.service.settlement.settle(item_id, REFUND)
    assert await shop.state(order) == "credited"
    assert await shop.told() == ["captured/stripe:pi_1"]


async def test_partial_refunds_add_up_and_never_exceed(shop: Shop) -> None:
    order = await credited(shop)
    refunds = shop.service.refunds
    for number, micros in enumerate([100_000_000_000, 100_000_000_000]):
        await refunds.refund(RefundWish("stripe:pi_1", micros, "a reason", "an operator", f"k{number}"))
        assert await shop.state(order) == "credited"
    with pytest.raises(Refusal, match="refund-exceeds-payment") as caught:
        await refunds.refund(RefundWish("stripe:pi_1", 50_000_000_001, "a reason", "an operator", "k3"))
    assert caught.value.extra == {"left_micros": 50_000_000_000}
    await refunds.refund(RefundWish("stripe:pi_1", None, "a reason", "an operator", "k4"))
    assert await shop.state(order) == "refunded"
    amounts = [event["data"]["amount_micros"] for event in await shop.events()]
    assert amounts[0] == sum(amounts[1:])
    with pytest.raises(Refusal, match="refund-exceeds-payment"):
        await refunds.refund(RefundWish("stripe:pi_1", None, "a reason", "an operator", "k5"))


async def test_one_key_at_once_is_one_refund(shop: Shop) -> None:
    await credited(shop)
    wish = RefundWish("stripe:pi_1", 1_000_000, "a reason", "an operator", "k")
    answers = await asyncio.gather(*(shop.service.refunds.refund(wish) for _ in range(20)))
    assert len({answer.refund_id for answer in answers}) == len(shop.stripe.refunds) == 1
    assert await shop.told() == ["captured/stripe:pi_1", f"refunded/{answers[0].refund_id}"]
    with pytest.raises(Refusal, match="idempotency-key-reused"):
        await shop.service.refunds.refund(RefundWish("stripe:pi_1", 2, "a reason", "an operator", "k"))


async def test_concurrent_refunds_never_exceed_the_payment(shop: Shop) -> None:
    order = await credited(shop)
    wishes = [RefundWish("stripe:pi_1", 100_000_000_000, "r", "a", f"k{number}") for number in range(10)]
    answers = await asyncio.gather(*map(shop.service.refunds.refund, wishes), return_exceptions=True)
    assert sum(isinstance(answer, Refusal) for answer in answers) == 8
    assert sum(sent.money.amount_micros for sent in shop.stripe.refunds.values()) == 200_000_000_000
    assert await shop.state(order) == "credited"


async def test_a_refund_without_an_answer_stays_and_is_sent_again_by_itself(shop: Shop) -> None:
    await credited(shop)
    wish = RefundWish("stripe:pi_1", None, "a reason", "an operator", "k")
    shop.stripe.down = True
    with pytest.raises(TransientFault):
        await shop.service.refunds.refund(wish)
    with pytest.raises(Refusal, match="refund-exceeds-payment"):
        await shop.service.refunds.refund(RefundWish("stripe:pi_1", 1, "a reason", "an operator", "another"))
    shop.clock.set(shop.clock.now_us() + 2 * MINUTE_US)
    assert await shop.service.refunds.resume() == 0
    shop.stripe.down = False
    shop.clock.set(shop.clock.now_us() + 2 * MINUTE_US)
    assert await shop.service.refunds.resume() == 1
    assert await shop.service.refunds.resume() == 0
    assert (await shop.service.refunds.refund(wish)).refund_id is not None
    assert len(await shop.told()) == 2


async def test_a_refused_refund_takes_nothing_and_frees_what_it_asked_for(shop: Shop) -> None:
    order = await credited(shop)
    shop.stripe.refuses = True
    with pytest.raises(ProviderRefusal):
        await shop.service.refunds.refund(RefundWish("stripe:pi_1", None, "a reason", "an operator", "k"))
    assert await shop.told() == ["captured/stripe:pi_1"]
    shop.stripe.refuses = False
    await shop.service.refunds.refund(RefundWish("stripe:pi_1", None, "a reason", "an operator", "k2"))
    assert await shop.state(order) == "refunded"


async def test_a_refund_that_fails_gives_back_once(shop: Shop) -> None:
    order = await credited(shop)
    await shop.apply(Refunded("stripe:pi_1", "stripe:re_1", vnd(250_000), "pending"))
    failed = RefundFailed("stripe:pi_1", "stripe:re_1", vnd(250_000), "lost")
    await shop.apply(failed)
    await shop.apply(failed)
    await shop.apply(Refunded("stripe:pi_1", "stripe:re_1", vnd(250_000), "pending"))
    assert await shop.state(order) == "credited"
    assert await shop.told() == ["captured/stripe:pi_1", "refunded/stripe:re_1", "refund_failed/stripe:re_1"]


async def test_a_dispute_takes_and_returns_once_and_the_order_is_then_what_it_was(shop: Shop) -> None:
    order = await credited(shop)
    opened = Disputed("stripe:pi_1", "stripe:dp_1", vnd(250_000), withdrawn=False)
    withdrawn = Disputed("stripe:pi_1", "stripe:dp_1", vnd(250_000), withdrawn=True)
    won = DisputeClosed("stripe:pi_1", "stripe:dp_1", "won", vnd(250_000), withdrawn=False)
    for fact in (opened, opened, withdrawn, withdrawn):
        await shop.apply(fact)
    assert await shop.state(order) == "disputed"
    for late in (won, won, opened):
        await shop.apply(late)
    assert await shop.state(order) == "credited"
    events = (await shop.events())[1:]
    assert [event["id"] for event in events] == [
        "disputed/stripe:dp_1/opened",
        "disputed/stripe:dp_1/withdrawn",
        "dispute_closed/stripe:dp_1/won",
    ]
    held = [event["data"].get("held_micros") for event in events]
    assert held == [250_000_000_000, 0, None]
    assert events[1]["data"]["withdrawn_micros"] == events[2]["data"]["returned_micros"] == 250_000_000_000


async def test_what_exceeds_the_payment_is_queued(shop: Shop) -> None:
    await credited(shop)
    await shop.apply(Refunded("stripe:pi_1", "stripe:re_1", vnd(150_000), "pending"))
    await shop.apply(Disputed("stripe:pi_1", "stripe:dp_1", vnd(250_000), withdrawn=True))
    taken = [
        event["data"].get("withdrawn_micros", event["data"]["amount_micros"] if "refund" in event["id"] else 0)
        for event in (await shop.events())[1:]
    ]
    assert sum(taken) == 250_000_000_000
    [(kind, amount_micros, item_id)] = await shop.rows("select kind, amount_micros, item_id from queue_item")
    assert (kind, amount_micros) == ("excess", 150_000_000_000)
    with pytest.raises(Refusal, match="nothing-to-settle"):
        await shop.service.settlement.settle(item_id, CREDIT)
    assert (await shop.service.settlement.settle(item_id, DISMISS)).resolution == "dismiss"
