"""Refunds after a restore: what the database forgot is asked for, and no money goes twice."""

import pytest

from services.payment.app.refunds import RefundWish, Withdrawal
from services.payment.app.settlement import SettlementWish
from services.payment.providers import ProviderName, RefundOrder
from services.payment.rules.facts import Fact, Refunded, RefundFailed
from shared.clock import MINUTE_US, SECOND_US
from shared.db import transaction
from shared.errors import Refusal, TransientFault
from shared.restore_records import Restore, insert_restore
from tests.payment.shop import Shop, paid, vnd

PAYMENT_ID = "stripe:pi_1"


def wish(amount: int | None = 30_000, key: str = "k", payment_id: str = PAYMENT_ID) -> RefundWish:
    return RefundWish(payment_id, None if amount is None else vnd(amount).amount_micros, "a reason", "kim", key)


async def captured(shop: Shop, provider: ProviderName = "stripe") -> str:
    order = await shop.order("100000", provider=provider)
    payment_id = PAYMENT_ID if provider == "stripe" else f"vnpay:{order.order_id.replace('-', '')}:14422574"
    await shop.apply(paid(order, payment_id), provider=provider)
    return payment_id


async def restore(shop: Shop) -> None:
    """Let the database have been set back a minute later; nothing of a refund is in it."""
    shop.clock.set(shop.clock.now_us() + MINUTE_US)
    async with transaction(shop.service.pool) as connection:
        await insert_restore(connection, Restore(1, "another server", shop.clock.now_us(), None))
    shop.clock.set(shop.clock.now_us() + SECOND_US)


class Forgetful:
    """Stripe without idempotency: it refunds whenever it is asked to, and lists what it refunded by our mark."""

    def __init__(self) -> None:
        self.made: dict[str, Fact] = {}
        self.sent = 0

    async def refund(self, refund: RefundOrder) -> Fact:
        self.sent += 1
        fact = Refunded(refund.payment_id, f"stripe:re_{self.sent}", refund.money, "succeeded")
        self.made[refund.request_id] = fact
        return fact

    async def find_refund(self, refund: RefundOrder) -> Fact | None:
        return self.made.get(refund.request_id)


@pytest.fixture
def stripe(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Forgetful:
    made = Forgetful()
    monkeypatch.setattr(shop.stripe, "refund", made.refund)
    monkeypatch.setattr(shop.stripe, "find_refund", made.find_refund)
    return made


@pytest.mark.parametrize("amount", [30_000, None])
async def test_a_repeat_of_a_lost_request_is_answered_with_the_refund_that_it_led_to(
    shop: Shop, stripe: Forgetful, amount: int | None
) -> None:
    await captured(shop)
    lost = Refunded(PAYMENT_ID, "stripe:re_lost", vnd(amount or 100_000), "succeeded")
    stripe.made[wish(amount).request_id] = lost
    await restore(shop)
    request = await shop.service.refunds.refund(wish(amount))
    assert (request.refund_id, request.amount_micros) == ("stripe:re_lost", lost.money.amount_micros)
    # Also where its webhook came before.
    assert await shop.apply(lost) == "repeated"
    assert await shop.service.refunds.refund(wish(amount)) == request
    assert stripe.sent == 0
    # A new key is a new wish, as far as something is left.
    if amount is None:
        with pytest.raises(Refusal, match="refund-exceeds-payment"):
            await shop.service.refunds.refund(wish(10_000, "other"))
    else:
        assert (await shop.service.refunds.refund(wish(10_000, "other"))).refund_id == "stripe:re_1"


async def test_a_lost_request_that_was_adopted_before_its_repeat_takes_nothing_of_what_is_left(
    shop: Shop, stripe: Forgetful
) -> None:
    await captured(shop)
    stripe.made[wish(80_000).request_id] = lost = Refunded(PAYMENT_ID, "stripe:re_lost", vnd(80_000), "succeeded")
    await restore(shop)
    await shop.apply(lost)
    assert (await shop.service.refunds.refund(wish(80_000))).refund_id == "stripe:re_lost"
    assert stripe.sent == 0


async def test_a_key_of_a_lost_request_names_no_other_amount(shop: Shop, stripe: Forgetful) -> None:
    await captured(shop)
    stripe.made[wish().request_id] = Refunded(PAYMENT_ID, "stripe:re_lost", vnd(30_000), "succeeded")
    await restore(shop)
    with pytest.raises(Refusal, match="idempotency-key-reused"):
        await shop.service.refunds.refund(wish(20_000))
    assert stripe.sent == 0


async def test_a_lost_request_that_failed_is_answered_as_it_was(shop: Shop, stripe: Forgetful) -> None:
    await captured(shop)
    stripe.made[wish().request_id] = RefundFailed(PAYMENT_ID, "stripe:re_lost", vnd(30_000), "declined")
    await restore(shop)
    for _ in range(2):
        with pytest.raises(Refusal, match="declined"):
            await shop.service.refunds.refund(wish())
    assert stripe.sent == 0


async def test_nothing_is_sent_while_the_provider_cannot_be_asked(
    shop: Shop, stripe: Forgetful, monkeypatch: pytest.MonkeyPatch
) -> None:
    await captured(shop)
    await restore(shop)

    async def silent(_refund: RefundOrder) -> Fact | None:
        raise TransientFault("out of reach")

    with monkeypatch.context() as patch:
        patch.setattr(shop.stripe, "find_refund", silent)
        with pytest.raises(TransientFault):
            await shop.service.refunds.refund(wish())
    assert stripe.sent == 0
    assert (await shop.service.refunds.refund(wish())).refund_id == "stripe:re_1"


async def test_a_request_whose_sending_was_lost_is_asked_about_before_it_is_sent_or_taken_back(
    shop: Shop, stripe: Forgetful, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup has the request, and not that it was sent."""
    await captured(shop)

    async def nothing(*_arguments: object, **_options: object) -> None:
        raise TransientFault("the process ended")

    keys = ("sent", "taken back")
    for key in keys:
        with monkeypatch.context() as patch:
            patch.setattr("services.payment.app.refunds.mark_tried", nothing)
            with pytest.raises(TransientFault):
                await shop.service.refunds.refund(wish(key=key))
        made = Refunded(PAYMENT_ID, f"stripe:{key}", vnd(30_000), "succeeded")
        stripe.made[wish(key=key).request_id] = made
    await restore(shop)
    with pytest.raises(Refusal, match="refund-answered"):
        await shop.service.refunds.withdraw(wish(key="taken back").request_id, Withdrawal("kim", "a reason"))
    shop.clock.set(shop.clock.now_us() + 2 * MINUTE_US)
    assert await shop.service.refunds.resume() == 1
    assert stripe.sent == 0
    rows = await shop.rows("select refund_id from refund_request order by 1")
    assert rows == [("stripe:sent",), ("stripe:taken back",)]


async def test_a_refund_of_vnpay_is_known_by_the_request_that_names_it(shop: Shop) -> None:
    payment_id = await captured(shop, "vnpay")
    asked = wish(payment_id=payment_id)
    adopted = Refunded(payment_id, f"vnpay:{asked.request_id}", vnd(30_000), "pending")
    await shop.apply(adopted, provider="vnpay")
    await restore(shop)
    shop.vnpay.down = True
    request = await shop.service.refunds.refund(asked)
    assert request.refund_id == adopted.refund_id
    assert shop.vnpay.refunds == {}


@pytest.mark.parametrize("provider", ["stripe", "vnpay"])
async def test_what_was_sent_back_before_the_restore_is_not_credited_after_it(
    shop: Shop, provider: ProviderName
) -> None:
    """Nobody was credited for it, so nobody was told of its refund, and VNPay lists none."""
    order = await shop.order("100000", provider=provider)
    payment_id = f"{provider}:pi_1"
    await shop.apply(paid(order, payment_id, money=vnd(90_000)), provider=provider)
    [(item_id,)] = await shop.rows("select item_id from queue_item")
    await restore(shop)
    bank = shop.stripe if provider == "stripe" else shop.vnpay
    request_id = RefundWish(payment_id, None, "", "", f"queue/{item_id}").request_id
    lost = Refunded(payment_id, f"{provider}:re_lost", vnd(90_000), "pending")
    bank.answers[request_id] = lost
    bank.down = True
    word = SettlementWish("credit", "he called", "anna", vnd(90_000).amount_micros)
    with pytest.raises(TransientFault):
        await shop.service.settlement.settle(item_id, word)
    bank.down = False
    bank.refunds[request_id] = RefundOrder(
        request_id, "vn", order.order_id, payment_id, vnd(90_000), vnd(90_000), 0, 0, "kim"
    )
    with pytest.raises(Refusal, match="already-settled"):
        await shop.service.settlement.settle(item_id, word)
    assert [name for name in await shop.told() if name.startswith("captured")] == []
    assert await shop.rows("select resolution from queue_item") == [("refunded",)]


async def test_what_was_not_sent_back_is_credited_after_a_restore(shop: Shop, stripe: Forgetful) -> None:
    order = await shop.order("100000")
    await shop.apply(paid(order, PAYMENT_ID, money=vnd(90_000)))
    [(item_id,)] = await shop.rows("select item_id from queue_item")
    await restore(shop)
    word = SettlementWish("credit", "he called", "anna", vnd(90_000).amount_micros)
    for _ in range(2):
        assert (await shop.service.settlement.settle(item_id, word)).resolution == "credit"
    assert stripe.sent == 0
