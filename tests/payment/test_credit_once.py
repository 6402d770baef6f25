"""From an order to its credit on real PostgreSQL: once, whatever is repeated, concurrent or out of order."""

import asyncio

import pytest

from services.payment.app.upkeep import Upkeep
from services.payment.rules.facts import Declined, Expired, Money, Paid, Refunded
from shared.clock import MINUTE_US, SECOND_US
from shared.errors import TransientFault
from tests.payment.shop import START_US, Shop, paid, vnd


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


async def test_two_event_objects_for_one_payment_credit_once(shop: Shop) -> None:
    """Stripe may make two events of one change, and Checkout emits the intent's success beside its own."""
    order = await shop.order()
    names = [f"evt_{number}" for number in range(20)]
    answers = await asyncio.gather(*(shop.receive(name, paid(order), order=order) for name in names))
    assert sorted(answer.outcome for answer in answers) == ["applied", *["repeated"] * 19]
    assert await shop.told() == ["captured/stripe:pi_1"]


async def test_different_payments_at_once_credit_one_and_queue_the_rest(shop: Shop) -> None:
    order = await shop.order()
    facts = [paid(order, f"stripe:pi_{number}") for number in range(10)]
    await asyncio.gather(*(shop.receive(f"evt_{fact.payment_id}", fact, order=order) for fact in facts))
    assert len(await shop.told()) == 1
    kinds = await shop.rows("select kind, count(*) from queue_item group by 1")
    assert kinds == [("duplicate", 9)]
    assert await shop.rows("select count(*) from payment") == [(10,)]


async def test_a_success_after_failure_and_expiry_is_credited_by_itself(shop: Shop) -> None:
    failed, expired = await shop.order(), await shop.order()
    await shop.receive("evt_1", Declined(failed.order_id, "card_declined", final=True), order=failed)
    await shop.receive("evt_2", Expired(expired.order_id), order=expired)
    await shop.receive("evt_3", Expired(expired.order_id), order=expired)
    assert (await shop.state(failed), await shop.state(expired)) == ("failed", "expired")
    await shop.receive("evt_4", paid(failed, "stripe:pi_1"), order=failed)
    await shop.receive("evt_5", paid(expired, "stripe:pi_2"), order=expired)
    assert (await shop.state(failed), await shop.state(expired)) == ("paid", "paid")
    assert await shop.told() == [
        f"failed/{failed.order_id}",
        f"failed/{expired.order_id}",
        "captured/stripe:pi_1",
        "captured/stripe:pi_2",
    ]


async def test_an_own_order_that_is_not_known_waits_ten_minutes_and_is_queued(shop: Shop) -> None:
    order = await shop.order()
    stranger = paid(order, order_id="order-of-yesterday")
    for minutes in (0, 5):
        shop.clock.set(order.created_at + minutes * MINUTE_US)
        answer = await shop.receive("evt_1", stranger, order_id="order-of-yesterday")
        assert (answer.outcome, answer.completed) == ("unknown", False)
    assert await shop.rows("select count(*) from payment") == [(0,)]
    shop.clock.set(order.created_at + 10 * MINUTE_US)
    answer = await shop.receive("evt_1", stranger, order_id="order-of-yesterday")
    assert (answer.outcome, answer.completed) == ("unknown", True)
    assert await shop.rows("select kind, payment_id from queue_item") == [("unknown-order", "stripe:pi_1")]
    assert (await shop.receive("evt_1", stranger, order_id="order-of-yesterday")).repeated
    assert await shop.told() == []


async def test_an_event_that_overtook_its_order_is_applied_when_it_is_sent_again(shop: Shop) -> None:
    request = shop.request(idempotency_key="late")
    fact = Paid(request.order_id, "stripe:pi_1", vnd(250_000), START_US, None, "ref")
    assert not (await shop.receive("evt_1", fact, order_id=request.order_id)).completed
    order = await shop.service.topups.create(request)
    assert (await shop.receive("evt_1", fact, order=order)).outcome == "applied"
    assert await shop.told() == ["captured/stripe:pi_1"]


async def test_foreign_and_unmarked_events_change_nothing(shop: Shop) -> None:
    order = await shop.order()
    assert (await shop.receive("evt_1", paid(order), order=order, region="de")).outcome == "ignored"
    assert (await shop.receive("evt_2", paid(order, order_id=None))).outcome == "ignored"
    assert (await shop.receive("evt_3", order=order)).outcome == "ignored"
    assert await shop.state(order) == "pending"
    assert await shop.told() == []


async def test_a_failed_effect_is_not_marked_as_seen(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    order = await shop.order()
    with monkeypatch.context() as patch:

        async def fail(*_arguments: object) -> None:
            raise TransientFault("the outbox is full")

        patch.setattr("services.payment.app.facts.append_messages", fail)
        with pytest.raises(TransientFault):
            await shop.receive("evt_1", paid(order), order=order)
    assert await shop.rows("select count(*) from inbox") == [(0,)]
    assert await shop.state(order) == "pending"
    assert (await shop.receive("evt_1", paid(order), order=order)).outcome == "applied"


async def test_wrong_amounts_and_currencies_are_kept_for_an_operator(shop: Shop) -> None:
    for number, money in enumerate([vnd(249_999), Money(250_000_000_000, "USD")]):
        order = await shop.order()
        answer = await shop.receive(f"evt_{number}", paid(order, f"stripe:pi_{number}", money=money), order=order)
        assert answer.outcome == "mismatched"
        assert await shop.state(order) == "mismatched"
    assert await shop.told() == []
    assert await shop.rows("select kind from queue_item") == [("mismatch",), ("mismatch",)]


async def test_the_right_payment_of_a_mismatched_order_is_credited(shop: Shop) -> None:
    order = await shop.order()
    await shop.receive("evt_1", paid(order, "stripe:pi_1", money=vnd(1)), order=order)
    await shop.receive("evt_2", paid(order, "stripe:pi_2"), order=order)
    assert await shop.state(order) == "paid"
    assert await shop.told() == ["captured/stripe:pi_2"]


async def test_reversals_before_their_payment_are_applied_with_it(shop: Shop) -> None:
    order = await shop.order()
    refund = Refunded("stripe:pi_1", "stripe:re_1", vnd(100_000), "succeeded")
    assert (await shop.receive("evt_1", refund)).outcome == "early"
    assert (await shop.receive("evt_2", refund)).outcome == "early"
    assert await shop.rows("select count(*) from early_fact") == [(1,)]
    await shop.receive("evt_3", paid(order), order=order)
    assert await shop.told() == ["captured/stripe:pi_1", "refunded/stripe:re_1"]
    assert await shop.rows("select count(*) from early_fact") == [(0,)]


async def test_a_refund_and_the_capture_at_once_lose_nothing(shop: Shop) -> None:
    """Whichever comes first: the reversal is applied, in one of the two transactions."""
    orders = [await shop.order() for _ in range(20)]
    await asyncio.gather(
        *(shop.receive(f"evt_p{n}", paid(order, f"stripe:pi_{n}"), order=order) for n, order in enumerate(orders)),
        *(
            shop.receive(f"evt_r{n}", Refunded(f"stripe:pi_{n}", f"stripe:re_{n}", vnd(250_000), "pending"))
            for n in range(20)
        ),
    )
    assert await shop.rows("select state, count(*) from payment_order group by 1") == [("refunded", 20)]
    assert len(await shop.told()) == 40
    assert await shop.rows("select count(*) from early_fact") == [(0,)]


async def test_old_facts_of_other_peoples_payments_are_forgotten(shop: Shop) -> None:
    await shop.receive("evt_1", Refunded("stripe:pi_foreign", "stripe:re_1", vnd(1), "pending"))
    await shop.service.upkeep.tidy()
    assert await shop.rows("select count(*) from early_fact") == [(1,)]
    shop.clock.set(shop.clock.now_us() + 91 * 86_400 * SECOND_US)
    # A clock that jumped may be wrong: what it says is over is kept, until a process began with it.
    await shop.service.upkeep.tidy()
    assert await shop.rows("select count(*) from early_fact") == [(1,)]
    service = shop.service
    restarted = Upkeep(service.pool, shop.clock, service.upkeep._balance, service.upkeep._settings)
    await restarted.tidy()
    assert await shop.rows("select count(*) from early_fact") == [(0,)]


async def test_credits_of_unknown_payments_and_other_events_change_nothing(shop: Shop) -> None:
    order = await shop.order()
    await shop.receive("evt_1", paid(order), order=order)
    poll = await shop.acknowledge("stripe:pi_of_another_database")
    assert not poll.dead
    assert await shop.state(order) == "paid"
