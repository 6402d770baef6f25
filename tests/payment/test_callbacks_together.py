"""Callbacks that share a transaction have the effects that they have one by one, on real PostgreSQL."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from services.payment.app import inbox as inbox_module
from services.payment.app.inbox import Inbox, Received
from services.payment.providers import Notice
from services.payment.rules.facts import Paid, Refunded
from services.payment.service import read_kept
from services.payment.store.inbox import lock_events
from services.payment.store.orders import StoredOrder
from tests.conftest import MakeDatabase
from tests.payment.shop import Shop, open_shop, paid, vnd

Callbacks = list[Callable[[], Coroutine[Any, Any, Received]]]
EFFECTS = (
    "select provider, event_id, type, body, completed_at, outcome from inbox order by 1, 2",
    "select order_id, state, payment_id, attempted, failure_told, transitions from payment_order order by 1",
    "select order_id, number, from_state, to_state, cause, at from order_transition order by 1, 2",
    "select payment_id, order_id, region, tenant_id, paid_micros, credit_micros, payer_email from payment order by 1",
    "select kind, subject, payment_id, order_id, amount_micros from queue_item order by 1, 2",
    "select payment_id, refund_id, amount_micros, state, told_micros from refund order by 1, 2",
    "select payment_id, fact from early_fact order by 1",
    "select stream, key, value from outbox order by 1, 3",
    "select stream, seq from outbox_head order by 1",
)


def callback(shop: Shop, number: int, fact: Paid | None, order: StoredOrder, **changes: Any) -> Any:
    facts = () if fact is None else (fact,)
    return lambda: shop.receive(f"evt_{number:03d}", *facts, order=order, **changes)


async def all_kinds(shop: Shop) -> Callbacks:
    """Callbacks of every kind that can go together, each about an order and a payment of its own."""
    callbacks: Callbacks = []
    for number in range(0, 60, 6):
        orders = [await shop.order(tenant_id=f"t{number + step}") for step in range(6)]
        names = [f"stripe:pi_{number + step:03d}" for step in range(6)]
        kinds: list[tuple[Paid | None, dict[str, Any]]] = [
            (paid(orders[0], names[0]), {}),
            (paid(orders[1], names[1], money=vnd(1)), {}),
            (paid(orders[2], names[2], order_id=f"unknown-{number}"), {}),
            (paid(orders[3], names[3]), {"region": "de"}),
            (None, {}),
            (paid(orders[5], names[5]), {"provider": "vnpay", "region": None, "money": orders[5].money}),
        ]
        callbacks += [
            callback(shop, number + step, fact, orders[step], **changes) for step, (fact, changes) in enumerate(kinds)
        ]
        # A refund that overtook its payment.
        await shop.apply(Refunded(names[0], f"stripe:re_{number}", vnd(1000), "succeeded"))
    return callbacks


async def test_together_they_have_the_effects_that_they_have_one_by_one(
    shop: Shop, make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    async def lock(connection: Any, callbacks: Any, *arguments: Any) -> Any:
        sizes.append(len(callbacks))
        return await lock_events(connection, callbacks, *arguments)

    _, other_url = await make_database("payment")
    async with open_shop(other_url) as other:
        alone = [await call() for call in await all_kinds(other)]
        effects = [await other.rows(query) for query in EFFECTS]
    callbacks = await all_kinds(shop)
    monkeypatch.setattr(inbox_module, "lock_events", lock)
    together = await asyncio.gather(*(call() for call in callbacks))
    assert together == alone
    assert max(sizes) > 10
    assert [await shop.rows(query) for query in EFFECTS] == effects


async def test_one_that_cannot_be_written_fails_alone(shop: Shop) -> None:
    orders = [await shop.order() for _ in range(20)]
    calls = [
        shop.receive(f"evt_{number}", paid(order, f"stripe:pi_{number}"), order=order)
        for number, order in enumerate(orders)
    ]
    bad = shop.receive("evt_bad", paid(orders[0], "stripe:\x00"), order=replace(orders[0], order_id="other"))
    *answers, failed = await asyncio.gather(*calls, bad)
    assert failed.outcome == "failed"
    assert {answer.outcome for answer in answers} == {"applied"}
    assert sorted(await shop.told()) == sorted(f"captured/stripe:pi_{number}" for number in range(20))


async def test_two_processes_that_take_the_same_in_opposite_orders_credit_each_once(shop: Shop) -> None:
    orders = [await shop.order(tenant_id=f"t{number % 4}") for number in range(40)]
    notices = [
        Notice(f"evt_{number}", "test", "vn", order.order_id, (paid(order, f"stripe:pi_{number}"),))
        for number, order in enumerate(orders)
    ]
    service = shop.service
    inboxes = [Inbox(service.pool, shop.clock, service.applier, {"vn"}, 600, read_kept) for _ in range(2)]
    answers = await asyncio.gather(
        *(inboxes[0].receive("stripe", notice, b"") for notice in notices),
        *(inboxes[1].receive("stripe", notice, b"") for notice in reversed(notices)),
    )
    assert {answer.outcome for answer in answers} == {"applied"}
    assert [answer.repeated for answer in answers].count(False) == 40
    assert sorted(await shop.told()) == sorted(f"captured/stripe:pi_{number}" for number in range(40))
