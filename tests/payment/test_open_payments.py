"""What enforcement asks before it deletes: everything that may still become a credit of one account."""

from typing import Any

import httpx

from services.payment.api_open_payments import OpenPaymentsApi
from services.payment.rules.facts import Attempted, Declined, Payer
from services.payment.store.open_payments import load_open_payments
from shared.db import transaction
from shared.http import create_api
from shared.restore_records import Lost, Restore, insert_lost, insert_restore
from tests.payment.shop import START_US, Shop, paid, vnd


async def open_payments(shop: Shop, region: str = "vn", tenant_id: str = "acme") -> list[tuple[str, str, bool]]:
    async with transaction(shop.service.pool) as connection:
        found = await load_open_payments(connection, region, tenant_id, 100)
    return [(item.kind, item.state, item.attempted) for item in found]


async def test_an_order_is_open_from_its_page_until_balance_has_credited_it(shop: Shop) -> None:
    order = await shop.order()
    assert await open_payments(shop) == [("order", "pending", False)]
    await shop.apply(Attempted(order.order_id, "card_declined"))
    assert await open_payments(shop) == [("order", "pending", True)]
    await shop.receive("evt-1", paid(order), order=order)
    assert await open_payments(shop) == [("payment", "uncredited", True)]
    await shop.acknowledge("stripe:pi_1", order.credit_micros)
    assert await open_payments(shop) == []


async def test_an_order_that_the_provider_refused_for_good_is_not_open(shop: Shop) -> None:
    order = await shop.order()
    await shop.apply(Declined(order.order_id, "card_declined", final=True))
    assert await open_payments(shop) == []


async def test_money_in_the_queue_is_open_for_its_account_alone(shop: Shop) -> None:
    order = await shop.order()
    await shop.receive("evt-1", paid(order), order=order)
    await shop.acknowledge("stripe:pi_1", order.credit_micros)
    await shop.receive("evt-2", paid(order, "stripe:pi_2"), order=order)
    assert await open_payments(shop) == [("queue", "duplicate", True)]
    assert await open_payments(shop, "jp", "acme") == []
    assert await open_payments(shop, "vn", "other") == []


async def test_a_payment_of_another_amount_is_open_as_order_and_in_the_queue(shop: Shop) -> None:
    order = await shop.order()
    await shop.receive("evt-1", paid(order, money=vnd(1)), order=order)
    assert await open_payments(shop) == [("order", "mismatched", True), ("queue", "mismatch", True)]


async def test_money_that_matches_no_order_is_open_for_the_payers_accounts(shop: Shop) -> None:
    order = await shop.order(email="An@example.com")
    stray = paid(order, order_id="ord-lost", payer=Payer("Nguyễn An", "an@example.com"))
    await shop.receive("evt-1", stray, order_id="ord-lost")
    shop.clock.set(shop.clock.now_us() + 86_400_000_000)
    await shop.receive("evt-1", stray, order_id="ord-lost")
    kinds = await open_payments(shop)
    assert ("queue", "unknown-order", True) in kinds
    assert ("queue", "unknown-order", True) not in await open_payments(shop, "vn", "other")


async def ask(shop: Shop) -> list[dict[str, Any]]:
    api = create_api("test", readiness=dict)
    api.include_router(OpenPaymentsApi(shop.service.pool, shop.clock, shop.service.reconciler).router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://payment/v1") as client:
        answer = await client.get("/accounts/vn/acme/open-payments")
    assert answer.is_success, answer.text
    found: list[dict[str, Any]] = answer.json()["open_payments"]
    return found


async def test_an_order_is_asked_about_before_it_is_called_unpaid(shop: Shop) -> None:
    """The customer paid, and the callback is lost: whoever deletes must hear of it now, not at the next round."""
    order = await shop.order()
    [found] = await ask(shop)
    assert (found["attempted"], found["asked"]) == (False, True)
    shop.stripe.answers[order.order_id] = paid(order)
    [found] = await ask(shop)
    assert (found["kind"], found["state"]) == ("payment", "uncredited")


async def test_an_order_whose_provider_does_not_answer_is_not_called_unpaid(shop: Shop) -> None:
    await shop.order()
    shop.stripe.down = True
    [found] = await ask(shop)
    assert (found["attempted"], found["asked"]) == (False, False)


async def test_money_for_an_order_that_a_restore_lost_is_open_for_its_account(shop: Shop) -> None:
    order = await shop.order()
    stray = paid(order, "stripe:pi_lost", order_id="ord-lost")
    for _ in range(2):
        await shop.receive("evt-1", stray, order_id="ord-lost")
        shop.clock.set(shop.clock.now_us() + 86_400_000_000)
    assert ("queue", "unknown-order", True) not in await open_payments(shop)
    async with transaction(shop.service.pool) as connection:
        restore = Restore(1, "another server", START_US, None)
        await insert_restore(connection, restore)
        await insert_lost(connection, 1, [Lost("order", "ord-lost", "vn", "acme", START_US, {})])
    assert ("queue", "unknown-order", True) in await open_payments(shop)
    assert ("queue", "unknown-order", True) not in await open_payments(shop, "vn", "other")
