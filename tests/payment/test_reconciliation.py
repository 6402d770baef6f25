"""Reconciliation: a lost callback only costs time, an open order is asked about before it expires, nothing is lost."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.payment.app.sweep import EventSweep
from services.payment.providers import Notice
from services.payment.rules.decision import OrderState
from services.payment.rules.facts import Declined, Fact, Refunded
from services.payment.rules.reconciliation import CLOSING_US, FIRST_ASK_US, Asking, next_ask_us
from services.payment.store.orders import StoredOrder
from shared.clock import DAY_US, HOUR_US, MINUTE_US
from tests.payment.shop import START_US, Shop, paid, vnd
from tests.support.eventually import eventually

STATES = st.sampled_from(["pending", "paid", "credited", "failed", "expired", "mismatched", "refunded", "disputed"])


def asks(state: OrderState, *, lasts_us: int = HOUR_US, until_us: int = 40 * DAY_US) -> Iterator[int]:
    """The instants at which an order that stays in a state is asked about, from its creation at 0."""
    now_us: int | None = FIRST_ASK_US
    while now_us is not None and now_us <= until_us:
        yield now_us
        now_us = next_ask_us(Asking(state, 0, lasts_us), now_us)


def test_an_open_order_is_asked_about_within_minutes_before_it_expires_and_when_it_closes() -> None:
    found = list(asks("pending", until_us=HOUR_US + CLOSING_US))
    assert max(later - earlier for earlier, later in zip([0, *found], found, strict=False)) <= 5 * MINUTE_US
    assert HOUR_US - MINUTE_US in found
    assert HOUR_US + CLOSING_US in found


def test_settled_orders_are_asked_about_ever_more_seldom_and_then_no_more() -> None:
    for state in ("credited", "failed", "expired", "refunded"):
        found = list(asks(state))
        assert [instant // HOUR_US for instant in found] == [0, 1, 6, 24, 72, 168, 336, 720]


@given(STATES, st.integers(0, 400 * DAY_US), st.integers(30 * MINUTE_US, DAY_US))
def test_the_next_question_is_always_later(state: OrderState, now_us: int, lasts_us: int) -> None:
    due = next_ask_us(Asking(state, 0, lasts_us), now_us)
    assert due is None or due > now_us
    if state in ("pending", "mismatched"):
        assert due is not None


async def wait_and_reconcile(shop: Shop, us: int = FIRST_ASK_US) -> None:
    shop.clock.set(shop.clock.now_us() + us)
    while await shop.reconcile_due():
        pass


async def test_a_lost_webhook_is_healed_within_minutes(shop: Shop) -> None:
    order = await shop.order()
    shop.stripe.answers[order.order_id] = paid(order)
    assert await shop.reconcile_due() == 0
    await wait_and_reconcile(shop)
    assert await shop.state(order) == "paid"
    # The webhook comes after all: one credit.
    await shop.receive("evt_1", paid(order), order=order)
    assert await shop.told() == ["captured/stripe:pi_1"]


async def test_an_order_that_nobody_paid_expires_after_its_page_is_closed_and_a_last_question(shop: Shop) -> None:
    order = await shop.order()
    await wait_and_reconcile(shop, HOUR_US)
    assert (await shop.state(order), shop.stripe.expired) == ("pending", [])
    await wait_and_reconcile(shop, CLOSING_US)
    assert (await shop.state(order), shop.stripe.expired) == ("expired", [order.order_id])
    assert await shop.told() == [f"failed/{order.order_id}"]


async def test_a_payment_that_came_with_the_closing_is_credited(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    order = await shop.order()
    asked: list[object] = []

    async def look_up(_order: object) -> list[Fact]:
        asked.append(_order)
        return [paid(order)] if len(asked) == 2 else []

    monkeypatch.setattr(shop.stripe, "look_up", look_up)
    shop.clock.set(order.expires_at + CLOSING_US)
    await shop.reconcile_due()
    assert await shop.state(order) == "paid"


async def test_an_hour_without_the_provider_loses_no_order(shop: Shop) -> None:
    orders = [await shop.order() for _ in range(5)]
    shop.stripe.down = True
    for _ in range(8):
        await wait_and_reconcile(shop, 10 * MINUTE_US)
    assert {await shop.state(order) for order in orders} == {"pending"}
    shop.stripe.down = False
    for number, order in enumerate(orders):
        shop.stripe.answers[order.order_id] = paid(order, f"stripe:pi_{number}")
    await wait_and_reconcile(shop, 10 * MINUTE_US)
    assert {await shop.state(order) for order in orders} == {"paid"}


async def test_a_frozen_provider_keeps_no_order_of_the_other_waiting(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VNPay lists no events: a lost callback of its is healed by asking alone."""
    asked = 0

    async def freeze(_order: object) -> list[Fact]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(3600)
        return []

    for _ in range(10):
        await shop.order()
    other = await shop.order(provider="vnpay", tenant_id="bolt")
    monkeypatch.setattr(shop.stripe, "look_up", freeze)
    shop.clock.set(shop.clock.now_us() + FIRST_ASK_US)
    running = asyncio.create_task(shop.service.reconciler.run())
    waiting = asyncio.create_task(shop.service.reconciler.ask_untried("vn", "acme"))
    await eventually(lambda: asked >= 8, timeout_seconds=5, what="all of Stripe's places are taken")
    assert other.order_id in await asyncio.wait_for(shop.service.reconciler.ask_untried("vn", "bolt"), 5)
    shop.vnpay.answers[other.order_id] = paid(other, "vnpay:1")
    shop.clock.set(shop.clock.now_us() + HOUR_US)

    async def is_paid() -> bool:
        return await shop.state(other) == "paid"

    is_healed: bool = await eventually(is_paid, timeout_seconds=20, what="VNPay's order is paid")
    assert is_healed
    for task in (running, waiting):
        task.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)


async def test_an_order_without_a_page_expires_without_asking_to_close_one(shop: Shop) -> None:
    shop.stripe.down = True
    with pytest.raises(Exception, match="out of reach"):
        await shop.order()
    shop.stripe.down = False
    await wait_and_reconcile(shop, HOUR_US + CLOSING_US)
    assert await shop.rows("select state from payment_order") == [("expired",)]
    assert shop.stripe.expired == []


async def test_a_late_success_and_a_refund_that_nobody_told_are_found_in_settled_orders(shop: Shop) -> None:
    order = await shop.order()
    await shop.receive("evt_1", Declined(order.order_id, "51", final=True), order=order)
    await wait_and_reconcile(shop)
    shop.stripe.answers[order.order_id] = paid(order)
    await wait_and_reconcile(shop, HOUR_US)
    assert await shop.state(order) == "paid"
    shop.stripe.answers[order.order_id] = Refunded("stripe:pi_1", "stripe:re_1", order.money, "succeeded")
    await wait_and_reconcile(shop, DAY_US)
    assert await shop.state(order) == "refunded"


async def differences(shop: Shop, order: StoredOrder) -> list[str]:
    asked, found = await shop.service.reconciler.reconcile_all(START_US, None, None)
    assert asked == 1
    assert all(item.order_id == order.order_id for item in found)
    return [item.kind for item in found]


async def test_every_difference_is_named_and_a_credit_that_balance_told_unheard_is_acknowledged(shop: Shop) -> None:
    order = await shop.order()
    assert await differences(shop, order) == []
    shop.stripe.answers[order.order_id] = paid(order)
    assert await differences(shop, order) == ["healed", "not-credited"]
    shop.balance.post("stripe:pi_1", order.credit_micros - 1)
    assert await differences(shop, order) == ["ledger-differs"]
    assert await shop.state(order) == "credited"
    shop.balance.post("stripe:pi_1", order.credit_micros)
    assert await differences(shop, order) == []
    shop.stripe.down = True
    assert await differences(shop, order) == ["provider-unreachable"]
    shop.stripe.down, shop.stripe.refuses = False, True
    assert await differences(shop, order) == ["provider-refused"]


async def test_a_payment_of_another_amount_is_found_and_queued(shop: Shop) -> None:
    order = await shop.order()
    shop.stripe.answers[order.order_id] = paid(order, money=vnd(1))
    assert await differences(shop, order) == ["queued"]
    assert await shop.state(order) == "mismatched"


async def test_a_sweep_takes_what_webhooks_did_not_bring_and_nothing_twice(shop: Shop) -> None:
    order = await shop.order()
    facts: dict[bytes, Fact] = {
        b"evt_1": paid(order),
        b"evt_2": Refunded("stripe:pi_1", "stripe:re_1", vnd(5), "succeeded"),
    }
    shop.stripe.events = [(START_US, body) for body in facts]

    def read(body: bytes) -> Notice:
        return Notice(body.decode(), "test", "vn", order.order_id, (facts[body],))

    sweep = EventSweep(shop.service.pool, shop.clock, shop.stripe, shop.service.inbox, read)
    await shop.receive("evt_1", paid(order), order=order)
    assert await sweep.sweep() == 1
    assert await sweep.sweep() == 0
    assert await shop.told() == ["captured/stripe:pi_1", "refunded/stripe:re_1"]
    [(through,)] = await shop.rows("select swept_through from event_sweep")
    assert through == START_US
