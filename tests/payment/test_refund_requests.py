"""Refunds that operators ask for: checked before they are kept, taken back, in nobody's way, never made twice."""

from typing import Any

import pytest

from services.payment.app import refunds
from services.payment.app.refunds import Refunds, RefundWish, Withdrawal
from services.payment.providers import ProviderName, RefundOrder
from services.payment.rules.facts import Fact, Refunded
from services.payment.store.refund_requests import RefundRequest, insert_request, mark_tried
from shared.clock import HOUR_US, MINUTE_US
from shared.db import transaction
from shared.errors import Refusal, TransientFault
from tests.payment.shop import Shop, paid

WORD = Withdrawal("kim", "typed units for micros")


async def captured(shop: Shop, name: str = "1", provider: ProviderName = "stripe") -> str:
    order = await shop.order("100000", provider=provider, tenant_id=f"tenant-{name}")
    payment_id = f"{provider}:pi_{name}"
    await shop.apply(paid(order, payment_id), provider=provider)
    return payment_id


def wish(payment_id: str, amount_micros: int | None = None, key: str = "k") -> RefundWish:
    return RefundWish(payment_id, amount_micros, "a reason", "an operator", key)


def wait(shop: Shop, us: int = 2 * MINUTE_US) -> None:
    shop.clock.set(shop.clock.now_us() + us)


async def open_requests(shop: Shop) -> list[str]:
    return [request.payment_id for request in await shop.service.refunds.list_open((0, ""), 100)]


@pytest.mark.parametrize("provider", ["stripe", "vnpay"])
async def test_an_amount_that_the_provider_cannot_take_is_refused_before_it_is_kept(
    shop: Shop, provider: ProviderName
) -> None:
    payment_id = await captured(shop, provider=provider)
    with pytest.raises(Refusal, match="amount-not-payable"):
        await shop.service.refunds.refund(wish(payment_id, 100_000))
    assert await shop.rows("select count(*) from refund_request") == [(0,)]
    await shop.service.refunds.refund(wish(payment_id))
    assert await shop.rows("select amount_micros from refund_request") == [(100_000_000_000,)]


async def keep_bad_row(shop: Shop, payment_id: str) -> str:
    """A request as an older version kept it: of a tenth of a dong."""
    bad = wish(payment_id, 100_000, "bad")
    request = RefundRequest(
        bad.request_id, payment_id, bad.request_hash, 100_000, "a reason", "an operator", shop.clock.now_us()
    )
    async with transaction(shop.service.pool) as connection:
        await insert_request(connection, request)
    return bad.request_id


async def test_one_bad_request_is_set_aside_and_the_others_are_sent(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.payment.app.refunds.BATCH", 1)
    refund = shop.stripe.refund

    async def convert(order: RefundOrder) -> Fact:
        if order.money.amount_micros % 1_000_000:
            raise Refusal("amount-not-payable", "no positive multiple")
        return await refund(order)

    monkeypatch.setattr(shop.stripe, "refund", convert)
    request_id = await keep_bad_row(shop, await captured(shop, "bad"))
    good = await captured(shop, "good")
    shop.stripe.down = True
    with pytest.raises(TransientFault):
        await shop.service.refunds.refund(wish(good))
    shop.stripe.down = False
    wait(shop)
    assert await shop.service.refunds.resume() == 1
    assert await open_requests(shop) == ["stripe:pi_bad"]
    assert await shop.rows("select kind, item, attempts from set_aside") == [("refund-resume", request_id, 1)]
    # Its pause grows; an operator takes it back, and the whole payment can be refunded.
    assert await shop.service.refunds.resume() == 0
    wait(shop)
    assert (await shop.service.refunds.withdraw(request_id, WORD)).failure == "withdrawn"
    assert await shop.rows("select count(*) from set_aside") == [(0,)]
    await shop.service.refunds.refund(wish("stripe:pi_bad"))
    assert await open_requests(shop) == []


async def test_a_provider_without_keys_is_set_aside_too(shop: Shop) -> None:
    await captured(shop, "v", "vnpay")
    shop.vnpay.down = True
    with pytest.raises(TransientFault):
        await shop.service.refunds.refund(wish("vnpay:pi_v"))
    service = shop.service
    refunds = Refunds(service.pool, shop.clock, {"stripe": shop.stripe}, service.applier)
    await captured(shop, "s")
    shop.stripe.down = True
    with pytest.raises(TransientFault):
        await refunds.refund(wish("stripe:pi_s"))
    shop.stripe.down = False
    wait(shop)
    assert await refunds.resume() == 1
    assert await shop.rows("select kind from set_aside") == [("refund-resume",)]


async def test_a_request_is_taken_back_only_while_nothing_happened(shop: Shop) -> None:
    payment_id = await captured(shop)
    shop.stripe.down = True
    with pytest.raises(TransientFault):
        await shop.service.refunds.refund(wish(payment_id))
    request_id = wish(payment_id).request_id
    with pytest.raises(Refusal, match="refund-under-way"):
        await shop.service.refunds.withdraw(request_id, WORD)
    wait(shop)
    # The provider can't say whether it happened; an operator who looked there can.
    with pytest.raises(TransientFault):
        await shop.service.refunds.withdraw(request_id, WORD)
    await shop.service.refunds.withdraw(request_id, Withdrawal("kim", "looked at Stripe", checked=True))
    with pytest.raises(Refusal, match="refund-answered"):
        await shop.service.refunds.withdraw(request_id, WORD)
    with pytest.raises(Refusal, match="withdrawn"):
        await shop.service.refunds.refund(wish(payment_id))
    rows = await shop.rows("select withdrawn_by, withdrawn_reason from refund_request")
    assert rows == [("kim", "looked at Stripe")]
    with pytest.raises(Refusal, match="refund-request-not-found"):
        await shop.service.refunds.withdraw("none", WORD)


async def lose_the_answer(shop: Shop, monkeypatch: pytest.MonkeyPatch, payment_id: str) -> None:
    """The provider takes the refund, and its answer is lost."""
    refund = shop.stripe.refund

    async def lose(order: RefundOrder) -> Fact:
        await refund(order)
        raise TransientFault("the answer was lost")

    with monkeypatch.context() as patch:
        patch.setattr(shop.stripe, "refund", lose)
        with pytest.raises(TransientFault):
            await shop.service.refunds.refund(wish(payment_id, 30_000_000_000))


async def test_a_process_that_was_frozen_before_it_sent_a_refund_sends_none(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it was frozen the operator took the request back."""

    async def freeze(*arguments: Any, **options: Any) -> None:
        await mark_tried(*arguments, **options)
        wait(shop)

    payment_id = await captured(shop)
    monkeypatch.setattr(refunds, "mark_tried", freeze)
    with pytest.raises(TransientFault, match="held up"):
        await shop.service.refunds.refund(wish(payment_id))
    assert shop.stripe.refunds == {}
    await shop.service.refunds.withdraw(wish(payment_id).request_id, WORD)
    assert await open_requests(shop) == []


async def test_a_refund_that_happened_is_not_taken_back(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    payment_id = await captured(shop)
    await lose_the_answer(shop, monkeypatch, payment_id)
    wait(shop)
    with pytest.raises(Refusal, match="refund-answered"):
        await shop.service.refunds.withdraw(wish(payment_id).request_id, WORD)
    assert await shop.rows("select state, amount_micros from refund") == [("pending", 30_000_000_000)]
    assert await open_requests(shop) == []


async def test_what_the_provider_no_longer_recognises_is_asked_about_before_it_is_sent_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment_id = await captured(shop)
    await lose_the_answer(shop, monkeypatch, payment_id)
    wait(shop, 25 * HOUR_US)
    sent: list[RefundOrder] = []
    made = Refunded(payment_id, "stripe:re_1", next(iter(shop.stripe.refunds.values())).money, "succeeded")

    async def refund_again(order: RefundOrder) -> Fact:
        sent.append(order)
        return Refunded(payment_id, "stripe:re_2", order.money, "succeeded")

    async def find(_order: RefundOrder) -> Fact:
        return made

    monkeypatch.setattr(shop.stripe, "refund", refund_again)
    monkeypatch.setattr(shop.stripe, "find_refund", find)
    assert await shop.service.refunds.resume() == 1
    assert sent == []
    assert await shop.rows("select refund_id from refund") == [("stripe:re_1",)]


async def test_what_never_happened_is_sent_again_after_the_window_too(shop: Shop) -> None:
    payment_id = await captured(shop)
    shop.stripe.down = True
    with pytest.raises(TransientFault):
        await shop.service.refunds.refund(wish(payment_id))
    shop.stripe.down = False
    wait(shop, 25 * HOUR_US)
    assert await shop.service.refunds.resume() == 1
    assert (len(shop.stripe.refunds), len(shop.stripe.asked)) == (1, 1)
