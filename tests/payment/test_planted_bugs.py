"""The proof that these tests see: bugs switched on one at a time, each caught by a story that passes without them."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from services.payment.app import facts as facts_module
from services.payment.app.inbox import Inbox, Received, _Item
from services.payment.app.refunds import RefundWish
from services.payment.app.topups import TopUpRequest, TopUps
from services.payment.rules import currencies, reversals
from services.payment.rules.facts import Disputed, Money, Refunded
from services.payment.rules.orders import decide_paid
from services.payment.store.inbox import Callback, lock_events
from services.payment.store.orders import StoredOrder
from shared.db import transaction
from shared.errors import TransientFault
from shared.money import MICROS
from tests.payment.shop import Shop, paid, vnd

Story = Callable[[Shop, pytest.MonkeyPatch], Awaitable[None]]
Plant = Callable[[pytest.MonkeyPatch], None]


# Stories


async def a_webhook_fails_once_and_is_sent_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    order = await shop.order()
    with monkeypatch.context() as patch:

        async def fail(*_arguments: object) -> None:
            raise TransientFault("a moment")

        patch.setattr(facts_module, "append_messages", fail)
        with pytest.raises(TransientFault):
            await shop.receive("evt_1", paid(order), order=order)
    await shop.receive("evt_1", paid(order), order=order)
    assert await shop.told() == ["captured/stripe:pi_1"]


async def a_click_is_repeated_after_a_fault(shop: Shop, _: pytest.MonkeyPatch) -> None:
    request = shop.request()
    shop.stripe.down = True
    with pytest.raises(TransientFault):
        await shop.service.topups.create(request)
    shop.stripe.down = False
    await shop.service.topups.create(request)
    assert await shop.rows("select count(*) from payment_order") == [(1,)]


async def a_refund_is_repeated_after_a_fault(shop: Shop, _: pytest.MonkeyPatch) -> None:
    order = await shop.order()
    await shop.receive("evt_1", paid(order), order=order)
    wish = RefundWish("stripe:pi_1", 1_000_000, "a reason", "an operator", "k")
    await shop.service.refunds.refund(wish)
    await shop.service.refunds.refund(wish)
    assert len(shop.stripe.refunds) == 1


async def payments_in_whole_and_thousandth_currencies(shop: Shop, _: pytest.MonkeyPatch) -> None:
    """What Stripe is asked for is what its documentation says, and what it answers is what was asked for."""
    for money, units in ((Money(500 * MICROS, "JPY"), 500), (Money(5_120_000, "KWD"), 5120), (vnd(250_000), 250_000)):
        assert currencies.to_stripe_units(money) == units
    order = await shop.order()
    said = currencies.from_stripe_units(250_000, "vnd")
    assert (await shop.receive("evt_1", paid(order, money=said), order=order)).outcome == "applied"


async def a_payment_of_another_amount(shop: Shop, _: pytest.MonkeyPatch) -> None:
    order = await shop.order()
    await shop.receive("evt_1", paid(order, money=vnd(1)), order=order)
    assert await shop.told() == []


async def more_goes_back_than_was_paid(shop: Shop, _: pytest.MonkeyPatch) -> None:
    order = await shop.order()
    await shop.receive("evt_1", paid(order), order=order)
    await shop.apply(Refunded("stripe:pi_1", "stripe:re_1", vnd(250_000), "succeeded"))
    await shop.apply(Disputed("stripe:pi_1", "stripe:dp_1", vnd(250_000), withdrawn=True))
    captured, refunded, *disputes = [event["data"] for event in await shop.events()]
    taken = refunded["amount_micros"] + sum(item["withdrawn_micros"] for item in disputes)
    assert taken == captured["amount_micros"]


# Plants


def dedupe_before_effect(patch: pytest.MonkeyPatch) -> None:
    """The event is marked as seen in a transaction of its own, before its effect."""

    async def receive(inbox: Any, provider: Any, notice: Any, body: bytes) -> Received:
        async with transaction(inbox._pool) as connection:
            callback = Callback(provider, notice.event_id, notice.type, body)
            (arrival,) = await lock_events(connection, [callback], [], 0)
            if arrival.outcome is not None:
                return Received(arrival.outcome, repeated=True)
        async with transaction(inbox._pool) as connection:
            (outcome,) = await inbox._apply(connection, [_Item(provider, notice, body)], [True])
            return Received(outcome)

    patch.setattr(Inbox, "receive", receive)


def order_key_per_attempt(patch: pytest.MonkeyPatch) -> None:
    """Each attempt at an order makes an id of its own."""
    attempts = count()
    original = TopUps.commit_order

    async def commit(topups: TopUps, request: TopUpRequest) -> StoredOrder:
        return await original(topups, replace(request, idempotency_key=f"{request.idempotency_key}-{next(attempts)}"))

    patch.setattr(TopUps, "commit_order", commit)


def refund_key_per_attempt(patch: pytest.MonkeyPatch) -> None:
    """Each attempt at a refund has a key of its own at the provider."""
    attempts = count()
    patch.setattr(RefundWish, "request_id", property(lambda _wish: f"{next(attempts):032d}"))


def everything_in_hundredths(patch: pytest.MonkeyPatch) -> None:
    """Every currency is sent and read as hundredths."""
    hundredth = currencies.MinorUnit(MICROS // 100)
    for code in currencies.STRIPE_UNITS:
        patch.setitem(currencies.STRIPE_UNITS, code, hundredth)


def hundredths_when_read(patch: pytest.MonkeyPatch) -> None:
    """What Stripe says is read as hundredths, although dong were sent whole."""
    patch.setattr(
        currencies,
        "from_stripe_units",
        lambda units, currency: Money(units * (MICROS // 100), currency.upper()),
    )


def amounts_are_not_compared(patch: pytest.MonkeyPatch) -> None:
    """Whatever was paid, the order is credited."""

    def believe(order: Any, fact: Any, *, known: bool) -> Any:
        return decide_paid(order, replace(fact, money=order.money) if order else fact, known=known)

    patch.setattr(facts_module, "decide_paid", believe)


def reversals_without_a_cap(patch: pytest.MonkeyPatch) -> None:
    """Reversals take what is gone, however much that is."""
    patch.setattr(
        reversals.Payment,
        "_credit_of",
        lambda payment, gone: (payment.credit_micros or 0) * gone // payment.paid.amount_micros,
    )


CASES: list[tuple[Plant, Story]] = [
    (dedupe_before_effect, a_webhook_fails_once_and_is_sent_again),
    (order_key_per_attempt, a_click_is_repeated_after_a_fault),
    (refund_key_per_attempt, a_refund_is_repeated_after_a_fault),
    (everything_in_hundredths, payments_in_whole_and_thousandth_currencies),
    (hundredths_when_read, payments_in_whole_and_thousandth_currencies),
    (amounts_are_not_compared, a_payment_of_another_amount),
    (reversals_without_a_cap, more_goes_back_than_was_paid),
]


@pytest.mark.parametrize(("plant", "story"), CASES, ids=lambda item: item.__name__)
async def test_a_planted_bug_is_caught(plant: Plant, story: Story, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        await story(shop, monkeypatch)


@pytest.mark.parametrize("story", dict.fromkeys(story for _, story in CASES), ids=lambda item: item.__name__)
async def test_the_same_story_without_a_bug_is_right(story: Story, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await story(shop, monkeypatch)
