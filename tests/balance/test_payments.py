"""Facts of payment on a real ledger: one entry each, whatever is repeated, raced, disputed or given back."""

import asyncio
from collections.abc import Sequence

import pytest
from pydantic import BaseModel

from services.balance.app.orders import Registration
from shared.clock import HOUR_US, SECOND_US
from shared.errors import Refusal
from shared.ids import shard_of
from tests.balance.batches import SHARDS, simple
from tests.balance.books import GRACE_US, START_US, Books
from tests.balance.facts import captured, dispute_closed, disputed, failed, refund_failed, refunded

EXPIRES_US = START_US + 10 * HOUR_US


def ordered(order_id: str, *, credit: int = 100, attempted: bool = False) -> Registration:
    return Registration(order_id, "stripe", credit, EXPIRES_US, attempted)


async def entries(books: Books) -> list[tuple[object, ...]]:
    return await books.rows("select debit_account, credit_account, class, amount_micros, fact_id from entry order by 5")


async def test_a_captured_payment_is_one_entry_and_is_told_with_its_id(books: Books) -> None:
    await books.pay(captured("stripe:pi_1", 500))
    await books.pay(captured("stripe:pi_1", 500), captured("stripe:pi_2", 70))
    assert await books.balance("acme") == 570
    assert await entries(books) == [
        ("payment:stripe", "customer", "payment", 500, "captured/stripe:pi_1"),
        ("payment:stripe", "customer", "payment", 70, "captured/stripe:pi_2"),
    ]
    credited = [event for event in await books.events("acme") if event["type"] == "credited"]
    assert [(event["credit_kind"], event["credit_id"], event["amount_micros"]) for event in credited] == [
        ("payment", "stripe:pi_1", 500),
        ("payment", "stripe:pi_2", 70),
    ]
    assert await books.audit() == []


async def test_fifty_copies_at_once_are_one_credit(books: Books) -> None:
    copies = [books.pay(captured("stripe:pi_1", 500), captured("stripe:pi_2", 1, tenant="other")) for _ in range(50)]
    await asyncio.gather(*copies)
    assert (await books.balance("acme"), await books.balance("other")) == (500, 1)
    assert len(await entries(books)) == 2
    assert books.dead == []
    assert await books.audit() == []


async def test_a_fact_that_came_with_other_contents_is_a_conflict_and_moves_nothing(books: Books) -> None:
    await books.pay(captured("stripe:pi_1", 500))
    await books.pay(captured("stripe:pi_1", 501), captured("stripe:pi_2", 2), captured("stripe:pi_2", 3))
    assert await books.balance("acme") == 502
    assert len(books.dead) == 2
    assert await books.audit() == []


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (captured("stripe:pi_1", 5, region="eu", currency="EUR"), "'eu' is no region"),
        (captured("stripe:pi_1", 5, currency="USD"), "accounts of vn are in VND"),
        (b"{}", "type"),
        (b"not JSON", "invalid literal"),
        (
            disputed("stripe:pi_1", "stripe:dp_1")
            .model_dump_json()
            .replace('"held_micros":0', '"held_micros":-1')
            .encode(),
            "greater",
        ),
    ],
)
async def test_what_makes_no_sense_is_kept_and_moves_nothing(
    books: Books, event: BaseModel | bytes, reason: str
) -> None:
    await books.pay(event, captured("stripe:pi_9", 9))
    [detail] = books.dead
    assert reason in detail
    assert await books.balance("acme") == 9


async def test_refunds_reverse_may_leave_a_debt_and_come_back_once_when_they_fail(books: Books) -> None:
    await books.pay(captured("stripe:pi_1", 500))
    await books.post(simple(1, {"acme": 450}))
    refund, back = refunded("stripe:pi_1", "stripe:re_1", 500), refund_failed("stripe:pi_1", "stripe:re_1", 500)
    await books.pay(refund, refund)
    account = await books.account("acme")
    assert (account.standing.balance_micros, account.standing.state) == (-450, "negative")
    books.clock.set(START_US + SECOND_US)
    await books.pay(back)
    await books.pay(back)
    assert await books.balance("acme") == 50
    assert await books.told("acme") == ["opened", "credited", "exhausted", "negative", "credited", "recovered"]
    assert await books.audit() == []


async def test_a_dispute_holds_then_takes_then_gives_back_once(books: Books) -> None:
    async def stands() -> tuple[int, int]:
        standing = (await books.account("acme")).standing
        return standing.balance_micros, standing.spendable_micros

    await books.pay(captured("stripe:pi_1", 500), captured("stripe:pi_2", 100))
    await books.pay(disputed("stripe:pi_1", "stripe:dp_1", held=500))
    assert await stands() == (600, 100)
    await books.pay(disputed("stripe:pi_1", "stripe:dp_1", withdrawn=500))
    assert await stands() == (100, 100)
    won = dispute_closed("stripe:pi_1", "stripe:dp_1", returned=500)
    await books.pay(won, won)
    await books.pay(won)
    assert await stands() == (600, 600)
    await books.pay(disputed("stripe:pi_2", "stripe:dp_2", held=100))
    await books.pay(dispute_closed("stripe:pi_2", "stripe:dp_2", withdrawn=100))
    assert await stands() == (500, 500)
    assert (await books.events("acme"))[-1]["spendable_micros"] == 600
    assert await books.audit() == []


async def test_facts_of_one_account_in_one_poll_are_told_in_order(books: Books) -> None:
    facts: Sequence[BaseModel] = [
        captured("stripe:pi_1", 10),
        refunded("stripe:pi_1", "stripe:re_1", 10),
        captured("stripe:pi_2", 5),
        captured("stripe:pi_3", 7, tenant="other"),
        refunded("stripe:pi_2", "stripe:re_2", 6),
    ]
    await books.pay(*facts)
    assert await books.told("acme") == [
        "opened",
        "credited",
        "exhausted",
        "credited",
        "recovered",
        "exhausted",
        "negative",
    ]
    assert (await books.balance("acme"), await books.balance("other")) == (-1, 7)
    assert await books.audit() == []


async def test_a_top_up_that_does_not_reach_zero_leaves_the_grace_period_and_a_returned_refund_restarts_it(
    books: Books,
) -> None:
    await books.pay(captured("stripe:pi_1", 10), refunded("stripe:pi_1", "stripe:re_1", 10))
    await books.post(simple(1, {"acme": 100}))
    for key, fact, since_us in (
        ("top-up", captured("stripe:pi_2", 20), START_US),
        ("back", refund_failed("stripe:pi_1", "stripe:re_1", 10), START_US + 2 * HOUR_US),
    ):
        books.clock.set(books.clock.now_us() + HOUR_US)
        await books.pay(fact)
        assert (await books.account("acme")).standing.negative_since_us == since_us, key


async def owe(books: Books) -> int:
    """Let acme owe something, and the grace period pass; answers when its debt began."""
    await books.post(simple(1, {"acme": 100}))
    books.clock.set(START_US + GRACE_US)
    return START_US


async def test_an_order_is_registered_once_opens_the_account_and_never_loses_an_attempt(books: Books) -> None:
    first, is_new = await books.orders.register("vn", "acme", ordered("o-1"))
    again, is_new_again = await books.orders.register("vn", "acme", ordered("o-1", attempted=True))
    assert (is_new, is_new_again, again.order_id) == (True, False, first.order_id)
    await books.orders.register("vn", "acme", ordered("o-1"))
    [(attempted, orders)] = await books.rows(
        "select attempted, orders from pending_order join account using (account_id)"
    )
    assert (attempted, orders) == (True, 2)
    for region, tenant, asked in (
        ("vn", "acme", ordered("o-1", credit=101)),
        ("vn", "other", ordered("o-1")),
    ):
        with pytest.raises(Refusal, match="order-differs"):
            await books.orders.register(region, tenant, asked)
    with pytest.raises(Refusal, match="unknown-region"):
        await books.orders.register("eu", "acme", ordered("o-2"))


async def test_copies_of_a_registration_at_once_are_one(books: Books) -> None:
    answers = await asyncio.gather(*(books.orders.register("vn", "acme", ordered("o-1")) for _ in range(20)))
    assert sum(is_new for _, is_new in answers) == 1
    assert (await books.account("acme")).orders == 1


async def test_an_order_voids_a_permit_and_holds_off_the_next(books: Books) -> None:
    since_us = await owe(books)
    due_us = since_us + GRACE_US
    permit = await books.permits.grant("vn", "acme", since_us, due_us)
    await books.orders.register("vn", "acme", ordered("o-1"))
    with pytest.raises(Refusal, match="ordered-since"):
        await books.permits.redeem(permit.permit_id, "ctr-1")
    with pytest.raises(Refusal, match="pending-order"):
        await books.permits.grant("vn", "acme", since_us, due_us)
    # Unattempted orders delay by two hours in all, however many there are.
    books.clock.set(due_us + 2 * HOUR_US - 1)
    await books.orders.register("vn", "acme", ordered("o-2"))
    with pytest.raises(Refusal, match="pending-order"):
        await books.permits.grant("vn", "acme", since_us, due_us)
    books.clock.set(due_us + 2 * HOUR_US)
    assert (await books.permits.grant("vn", "acme", since_us, due_us)).permit_id != permit.permit_id


async def test_an_attempted_order_holds_off_deletion_until_its_payment_failed(books: Books) -> None:
    since_us = await owe(books)
    await books.orders.register("vn", "acme", ordered("o-1", attempted=True))
    books.clock.set(since_us + 30 * GRACE_US)
    with pytest.raises(Refusal, match="pending-order"):
        await books.permits.grant("vn", "acme", since_us, since_us + GRACE_US)
    await books.pay(failed("o-1"))
    permit = await books.permits.grant("vn", "acme", since_us, since_us + GRACE_US)
    await books.pay(captured("stripe:pi_1", 50, order="o-1"))
    with pytest.raises(Refusal, match="credited-since"):
        await books.permits.redeem(permit.permit_id, "ctr-1")


async def test_a_registration_waits_for_a_redemption_or_comes_before_it(books: Books) -> None:
    """However they meet: a redemption after a registration is refused."""
    since_us = await owe(books)
    permit = await books.permits.grant("vn", "acme", since_us, since_us + GRACE_US)
    results = await asyncio.gather(
        *(books.permits.redeem(permit.permit_id, f"ctr-{number}") for number in range(8)),
        books.orders.register("vn", "acme", ordered("o-1")),
        return_exceptions=True,
    )
    redeemed = [item for item in results[:-1] if not isinstance(item, BaseException)]
    [(count,)] = await books.rows("select count(*) from permit_redemption")
    assert count == len(redeemed)
    assert all(isinstance(item, Refusal) for item in results[:-1] if isinstance(item, BaseException))
    with pytest.raises(Refusal, match="ordered-since"):
        await books.permits.redeem(permit.permit_id, "ctr-0")


async def test_a_payment_ends_its_order(books: Books) -> None:
    await books.orders.register("vn", "acme", ordered("o-1", attempted=True))
    await books.pay(captured("stripe:pi_1", 100, order="o-1"), failed("o-1"))
    [(ended_by,)] = await books.rows("select ended_by from pending_order")
    assert ended_by == "captured/stripe:pi_1"


async def test_charges_and_payments_of_one_shard_meet_without_deadlock(books: Books) -> None:
    tenants = [f"t{number}" for number in range(40)]
    shard = shard_of("vn", "acme", SHARDS)
    same = [name for name in tenants if shard_of("vn", name, SHARDS) == shard]
    work = [books.pay(*(captured(f"stripe:{name}-{n}", 10, tenant=name) for name in tenants)) for n in range(6)]
    work += [books.post(simple(n, dict.fromkeys(same, 1))) for n in range(1, 6)]
    await asyncio.gather(*work)
    # Batches that overtook one another wait, and one that began to wait unseen by its forerunner is drained later.
    await books.charge_poster.drain(books.pool, shard)
    assert sum([await books.balance(name) for name in tenants]) == 6 * 10 * len(tenants) - 5 * len(same)
    assert await books.audit() == []
