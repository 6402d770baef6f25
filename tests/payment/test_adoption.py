"""A restored payment adopts all that it told: what comes next meets the rows that it would have met."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date
from typing import Any

import orjson
import pytest

from services.payment.app.refunds import RefundWish, Withdrawal
from services.payment.app.settlement import SettlementWish
from services.payment.app.topups import TopUpRequest
from services.payment.providers import ProviderName, RefundOrder
from services.payment.rules.conversion import Rate, parse_rate
from services.payment.rules.facts import (
    Declined,
    DisputeClosed,
    Disputed,
    Expired,
    Fact,
    Money,
    Paid,
    PaymentFact,
    Refunded,
    RefundFailed,
)
from shared.clock import MINUTE_US
from shared.errors import Refusal, TransientFault
from tests.payment.restoring import Restoring, open_restoring
from tests.payment.shop import Shop, paid, vnd
from tests.support.databases import Databases

PAYMENT_ID = "stripe:pi_1"
PRICE = 100_000
STATE = """
    select p.payment_id, p.credit_micros,
      (select json_agg((r.refund_id, r.amount_micros, r.state) order by r.refund_id) from refund r
        where r.payment_id = p.payment_id),
      (select json_agg((d.dispute_id, d.amount_micros, d.held_micros, d.withdrawn, d.outcome) order by d.dispute_id)
        from dispute d where d.payment_id = p.payment_id)
    from payment p order by 1
"""


@pytest.fixture
async def restoring(databases: Databases) -> AsyncIterator[Restoring]:
    async with open_restoring(databases) as made:
        yield made


def moved(events: list[dict[str, Any]]) -> int:
    """What events move on the account, as balance posts them: each id once."""
    total = 0
    for event in {event["id"]: event for event in events}.values():
        data = event["data"]
        match event["type"]:
            case "payment.captured" | "payment.refund_failed":
                total += data["amount_micros"]
            case "payment.refunded":
                total -= data["amount_micros"]
            case "payment.disputed":
                total -= data["withdrawn_micros"]
            case "payment.dispute_closed":
                total += data["returned_micros"] - data["withdrawn_micros"]
    return total // 1_000_000


async def ledger(restoring: Restoring, shop: Shop) -> int:
    """What the account has of everything that was ever told, before the restore and after it."""
    told = [orjson.loads(record.value or b"") for record in restoring.told]
    again = await shop.events()
    ids = {event["id"] for event in told}
    for event in again:
        before = next((item for item in told if item["id"] == event["id"]), event)
        assert event["data"] == before["data"], "a fact that is told again says the same"
    return moved(told + [event for event in again if event["id"] not in ids])


def refunded(name: str, amount: int, **changes: Any) -> Refunded:
    return Refunded(PAYMENT_ID, f"stripe:{name}", vnd(amount), changes.get("state", "pending"))


def failed(name: str, amount: int) -> RefundFailed:
    return RefundFailed(PAYMENT_ID, f"stripe:{name}", vnd(amount), "declined")


def disputed(amount: int, *, withdrawn: bool = False) -> Disputed:
    return Disputed(PAYMENT_ID, "stripe:dp_1", vnd(amount), withdrawn)


def closed(outcome: Any, amount: int) -> DisputeClosed:
    return DisputeClosed(PAYMENT_ID, "stripe:dp_1", outcome, vnd(amount), outcome == "lost")


# What is lost, and what comes first after the restore, with what the account then has.
STORIES: dict[str, tuple[list[PaymentFact], list[PaymentFact], int]] = {
    "a dispute after a lost refund": ([refunded("re_1", 30_000)], [disputed(PRICE, withdrawn=True)], 0),
    "a refund after a lost refund": ([refunded("re_1", 30_000)], [refunded("re_2", 90_000)], 0),
    "a lost refund fails": ([refunded("re_1", 30_000)], [failed("re_1", 30_000)], PRICE),
    "a lost failure": ([refunded("re_1", 30_000), failed("re_1", 30_000)], [refunded("re_2", PRICE)], 0),
    "a refund after a lost dispute": ([disputed(PRICE, withdrawn=True)], [refunded("re_1", 30_000)], 0),
    "a lost dispute is won": (
        [refunded("re_1", 30_000), disputed(PRICE, withdrawn=True)],
        [closed("won", PRICE)],
        70_000,
    ),
    "a lost dispute of which a part could be held": (
        [refunded("re_1", 30_000), disputed(PRICE), disputed(PRICE, withdrawn=True)],
        [failed("re_1", 30_000)],
        0,
    ),
    "a lost end of a dispute": (
        [disputed(PRICE), closed("lost", PRICE)],
        [refunded("re_1", 30_000)],
        0,
    ),
    "all is told again": (
        [refunded("re_1", 30_000), disputed(50_000, withdrawn=True), closed("won", 50_000)],
        [closed("won", 50_000), disputed(50_000, withdrawn=True), refunded("re_1", 30_000, state="succeeded")],
        70_000,
    ),
}


@pytest.mark.parametrize("is_known", [True, False], ids=["the order is known", "the order is lost"])
@pytest.mark.parametrize("story", list(STORIES))
async def test_a_fact_that_comes_before_all_others_meets_what_was_told(
    restoring: Restoring, story: str, *, is_known: bool
) -> None:
    lost_facts, next_facts, expected = STORIES[story]
    async with restoring.before() as shop:
        if is_known:
            order = await shop.order(str(PRICE))
    async with restoring.lost() as shop:
        if not is_known:
            order = await shop.order(str(PRICE))
        await shop.apply(paid(order, PAYMENT_ID))
        for fact in lost_facts:
            await shop.apply(fact)
        was = await shop.rows(STATE)
        state = await shop.state(order)
    async with restoring.after() as shop:
        assert await shop.rows(STATE) == was
        assert not is_known or await shop.state(order) == state
        assert await shop.told() == []
        for fact in next_facts:
            await shop.apply(fact)
        assert await ledger(restoring, shop) == expected
        # What is lost comes again from the provider, and changes nothing.
        for fact in (*lost_facts, *next_facts):
            await shop.apply(fact)
        assert await ledger(restoring, shop) == expected


async def test_what_an_older_version_told_is_adopted_too(restoring: Restoring) -> None:
    """It did not say how much of the customer's money went: the credit that it took says so."""
    async with restoring.before() as shop:
        await shop.service.rates.publish(Rate("USD", "VND", parse_rate("26123.4567"), date(2027, 1, 15)), "anna")
        quote = await shop.service.rates.quote("vn", Money(10_000_000, "USD"))
        order = await shop.order("10", currency="USD", quote_id=quote.quote_id)
        await shop.apply(paid(order, PAYMENT_ID))
    facts: list[Fact] = [
        Refunded(PAYMENT_ID, "stripe:re_1", Money(3_330_000, "USD"), "pending"),
        Refunded(PAYMENT_ID, "stripe:re_2", Money(1_110_000, "USD"), "pending"),
        Disputed(PAYMENT_ID, "stripe:dp_1", Money(2_220_000, "USD"), withdrawn=True),
    ]
    async with restoring.lost() as shop:
        for fact in facts:
            await shop.apply(fact)
        was = await shop.rows(STATE)
    for number, record in enumerate(restoring.told):
        event = orjson.loads(record.value or b"")
        event["data"] = {
            name: value for name, value in event["data"].items() if name[:8] not in ("refunded", "disputed")
        }
        restoring.told[number] = type(record)(record.partition, record.offset, orjson.dumps(event), record.headers)
    async with restoring.after() as shop:
        assert await shop.rows(STATE) == was


async def test_what_an_operator_credited_is_credited_after_the_restore(restoring: Restoring) -> None:
    async with restoring.before() as shop:
        order = await shop.order(str(PRICE))
        await shop.apply(paid(order, PAYMENT_ID, money=vnd(90_000)))
    async with restoring.lost() as shop:
        [(item_id,)] = await shop.rows("select item_id from queue_item")
        word = SettlementWish("credit", "he called", "anna", vnd(90_000).amount_micros)
        await shop.service.settlement.settle(item_id, word)
        await shop.apply(refunded("re_1", 20_000))
    async with restoring.after() as shop:
        assert await shop.state(order) == "paid"
        assert await shop.rows("select resolution from queue_item") == [("credit",)]
        await shop.apply(refunded("re_2", 30_000))
        assert await ledger(restoring, shop) == 40_000


@pytest.mark.parametrize("reason", ["card_declined", "expired"])
async def test_an_order_that_was_told_as_failed_has_failed(restoring: Restoring, reason: str) -> None:
    async with restoring.before() as shop:
        order = await shop.order(str(PRICE))
    async with restoring.lost() as shop:
        expired = reason == "expired"
        await shop.apply(Expired(order.order_id) if expired else Declined(order.order_id, reason, final=True))
    async with restoring.after() as shop:
        assert await shop.state(order) == ("expired" if reason == "expired" else "failed")
        await shop.apply(Expired(order.order_id))
        assert await shop.told() == []


@pytest.mark.parametrize("is_known", [True, False], ids=["the order is known", "the order is lost"])
async def test_refunds_of_vnpay_come_back_from_what_was_told(restoring: Restoring, *, is_known: bool) -> None:
    """VNPay lists none, and a sweep of its events brings nothing."""
    provider: ProviderName = "vnpay"
    async with restoring.before() as shop:
        if is_known:
            order = await shop.order(str(PRICE), provider=provider)
    async with restoring.lost() as shop:
        if not is_known:
            order = await shop.order(str(PRICE), provider=provider)
        payment_id = f"vnpay:{order.order_id.replace('-', '')}:14422574"
        await shop.apply(paid(order, payment_id), provider=provider)
        wish = RefundWish(payment_id, vnd(80_000).amount_micros, "a reason", "kim", "key")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shop.vnpay, "refund", answer_as_vnpay)
            made = await shop.service.refunds.refund(wish)
        shop.clock.set(shop.clock.now_us() + MINUTE_US)
    async with restoring.after() as shop:
        again = await shop.service.refunds.refund(wish)
        assert (again.refund_id, shop.vnpay.refunds) == (made.refund_id, {})
        with pytest.raises(Refusal, match="refund-exceeds-payment"):
            await shop.service.refunds.refund(
                RefundWish(payment_id, vnd(80_000).amount_micros, "a reason", "kim", "another key")
            )
        assert await ledger(restoring, shop) == 20_000


async def test_an_open_request_whose_refund_of_vnpay_was_told_is_answered_by_it(restoring: Restoring) -> None:
    """The backup has the request without an answer; it is not sent again, nor taken back."""
    async with restoring.before() as shop:
        order = await shop.order(str(PRICE), provider="vnpay")
        payment_id = f"vnpay:{order.order_id.replace('-', '')}:14422574"
        await shop.apply(paid(order, payment_id), provider="vnpay")
        wish = RefundWish(payment_id, vnd(80_000).amount_micros, "a reason", "kim", "key")
        shop.vnpay.down = True
        with pytest.raises(TransientFault):
            await shop.service.refunds.refund(wish)
    async with restoring.lost() as shop:
        shop.clock.set(shop.clock.now_us() + 2 * MINUTE_US)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shop.vnpay, "refund", answer_as_vnpay)
            assert await shop.service.refunds.resume() == 1
    async with restoring.after() as shop:
        shop.vnpay.down = True
        with pytest.raises(Refusal, match="refund-answered"):
            await shop.service.refunds.withdraw(wish.request_id, Withdrawal("kim", "a reason"))
        assert (await shop.service.refunds.refund(wish)).refund_id == f"vnpay:{wish.request_id}"
        assert await ledger(restoring, shop) == 20_000


async def answer_as_vnpay(asked: RefundOrder) -> Fact:
    return Refunded(asked.payment_id, f"vnpay:{asked.request_id}", asked.money, "pending")


async def test_an_event_that_cannot_be_adopted_is_listed_and_keeps_nobody_out(
    restoring: Restoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with restoring.before() as shop:
        order = await shop.order(str(PRICE))
    async with restoring.lost() as shop:
        await shop.apply(paid(order, PAYMENT_ID))
        await shop.apply(refunded("re_1", 30_000))

    def fail(*_arguments: object) -> PaymentFact:
        raise ValueError("no such fact")

    monkeypatch.setattr("services.payment.app.recovery.reversal_of", fail)
    async with restoring.after() as shop:
        rows = await shop.rows("select kind, item from restore_lost order by 1")
        assert rows == [("event", "refunded/stripe:re_1"), ("refund", "stripe:re_1")]


async def play_lost_order(restoring: Restoring, *facts: PaymentFact) -> TopUpRequest:
    """Let an order be made, paid and credited after the backup, and lost."""
    async with restoring.before():
        pass
    async with restoring.lost() as shop:
        request = shop.request(str(PRICE))
        order = await shop.service.topups.create_for_customer(request)
        await shop.apply(paid(order, PAYMENT_ID))
        for fact in facts:
            await shop.apply(fact)
    return request


@pytest.mark.parametrize(
    ("facts", "state"),
    [((), "credited"), ((refunded("re_1", PRICE),), "refunded"), ((disputed(PRICE),), "disputed")],
)
async def test_a_repeat_of_a_request_that_was_paid_and_lost_shows_it_paid(
    restoring: Restoring, facts: tuple[PaymentFact, ...], state: str
) -> None:
    request = await play_lost_order(restoring, *facts)
    async with restoring.after() as shop:
        await shop.acknowledge(PAYMENT_ID)
        answers = [await shop.service.topups.create_for_customer(request) for _ in range(2)]
        answers += await asyncio.gather(*(shop.service.topups.create_for_customer(request) for _ in range(3)))
        for order in answers:
            assert (order.order_id, order.state, order.payment_id) == (request.order_id, state, PAYMENT_ID)
        # Nothing of it can be paid again, and nothing is told.
        assert (shop.stripe.opened, shop.balance.registered, await shop.told()) == ([], {}, [])
        assert await shop.rows("select order_id, unknown_order_id from payment") == [(request.order_id, None)]
        assert await shop.apply(paid(answers[0], PAYMENT_ID)) == "repeated"
        # Another order under this key is none.
        with pytest.raises(Refusal, match="idempotency-key-reused"):
            await shop.service.topups.create_for_customer(replace(request, amount="90000"))


async def test_another_request_under_the_key_of_a_lost_one_takes_no_payment(restoring: Restoring) -> None:
    request = await play_lost_order(restoring)
    async with restoring.after() as shop:
        for wish in (replace(request, amount="90000"), replace(request, provider="vnpay")):
            with pytest.raises(Refusal, match="idempotency-key-reused"):
                await shop.service.topups.create_for_customer(wish)
        assert await shop.rows("select count(*) from payment_order") == [(0,)]


async def test_a_lost_order_in_another_currency_needs_no_quote_to_be_shown(restoring: Restoring) -> None:
    """The quote was lost with it; what was credited says at which rate."""
    async with restoring.before():
        pass
    async with restoring.lost() as shop:
        await shop.service.rates.publish(Rate("USD", "VND", parse_rate("25400.5"), date(2027, 1, 15)), "anna")
        quote = await shop.service.rates.quote("vn", Money(10_000_000, "USD"))
        request = shop.request("10", currency="USD", quote_id=quote.quote_id)
        was = await shop.service.topups.create_for_customer(request)
        await shop.apply(paid(was, PAYMENT_ID))
    async with restoring.after() as shop:
        order = await shop.service.topups.create_for_customer(request)
        assert (order.state, order.credit_micros, order.money) == ("paid", was.credit_micros, was.money)
        assert (order.rate_e12, order.rate_date) == (was.rate_e12, was.rate_date)


async def test_money_of_a_lost_order_that_nobody_was_told_of_is_credited_when_the_request_is_repeated(
    restoring: Restoring,
) -> None:
    """Its payment came after the restore only, and waits for an operator."""
    async with restoring.before():
        pass
    async with restoring.lost() as shop:
        request = shop.request(str(PRICE))
        order = await shop.service.topups.create_for_customer(request)
    async with restoring.after() as shop:
        assert await shop.apply(paid(order, PAYMENT_ID)) == "unknown"
        again = await shop.service.topups.create_for_customer(request)
        assert (again.state, again.payment_id, shop.stripe.opened) == ("paid", PAYMENT_ID, [])
        assert await shop.told() == [f"captured/{PAYMENT_ID}"]
        assert await shop.rows("select resolution from queue_item") == [("credit",)]


async def test_money_that_is_not_what_is_asked_waits_for_an_operator_still(restoring: Restoring) -> None:
    async with restoring.before():
        pass
    async with restoring.after() as shop:
        request = shop.request(str(PRICE))
        stray = Paid(request.order_id, PAYMENT_ID, vnd(90_000), 1_800_000_000_000_000, None, "ref")
        assert await shop.apply(stray) == "unknown"
        order = await shop.service.topups.create_for_customer(request)
        assert (order.state, await shop.told()) == ("pending", [])
        assert await shop.rows("select resolution from queue_item") == [(None,)]


async def test_a_repeat_of_a_request_that_failed_and_was_lost_has_failed(restoring: Restoring) -> None:
    async with restoring.before():
        pass
    async with restoring.lost() as shop:
        request = shop.request(str(PRICE))
        order = await shop.service.topups.create_for_customer(request)
        await shop.apply(Declined(order.order_id, "card_declined", final=True))
    async with restoring.after() as shop:
        with pytest.raises(Refusal, match="order-ended"):
            await shop.service.topups.create_for_customer(request)
        assert await shop.state(order) == "failed"
        assert (await shop.told(), shop.balance.registered) == ([], {})
        # The money decides, whenever it comes.
        assert await shop.apply(paid(order, PAYMENT_ID)) == "applied"
