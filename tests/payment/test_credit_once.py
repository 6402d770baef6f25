"""From an order to its credit on real PostgreSQL: once, whatever is repeated, concurrent or out of order."""

import asyncio

from tests.payment.shop import Shop, paid


async def test_an_order_is_registered_paid_and_credited(shop: Shop) -> None:
    order = await shop.order()
    assert shop.balance.registered[order.order_id]["credit_micros"] == 250_000_000_000
    assert order.page_url is not None
    assert (await shop.receive("evt_1", paid(order), order=order)).outcome == "applied"
    assert await shop.state(order) == "paid"
    [event] = await shop.events()
    assert event["id"] == "captured/stripe:pi_1"
    assert event["data"]["amount_micros"] == event["data"]["paid_micros"] == 250_000_000_000
    await shop.acknowledge("stripe:pi_1")
    await shop.acknowledge("stripe:pi_1")
    assert await shop.state(order) == "credited"
    transitions = await shop.rows("select number, from_state, to_state, cause from order_transition order by number")
    assert transitions == [(1, "pending", "paid", "webhook evt_1"), (2, "paid", "credited", "account.credited")]


async def test_two_hundred_copies_of_one_webhook_credit_once(shop: Shop) -> None:
    order = await shop.order()
    answers = await asyncio.gather(*(shop.receive("evt_1", paid(order), order=order) for _ in range(200)))
    assert {answer.outcome for answer in answers} == {"applied"}
    assert [answer.repeated for answer in answers].count(False) == 1
    assert await shop.told() == ["captured/stripe:pi_1"]
