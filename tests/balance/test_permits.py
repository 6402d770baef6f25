"""Deletion permits against real PostgreSQL: consent that is hard to get, and that any credit takes back."""

import asyncio

import pytest

from services.balance.app import accounts as accounts_module
from services.balance.app import permits as permits_module
from services.balance.app.orders import Registration
from services.balance.store.accounts import load_account
from services.balance.store.adjustments import Adjustment, insert_adjustment
from services.balance.store.partitions import ensure_ledger_partitions
from services.balance.store.permits import OwnUse, load_own_use
from shared.clock import HOUR_US, SECOND_US
from shared.db import Connection, transaction
from shared.errors import Refusal
from tests.balance.batches import charges, encode, make_batch, simple, tenants_of
from tests.balance.books import GRACE_US, PERMIT_US, START_US, Books
from tests.balance.facts import captured, dispute_closed, disputed, refund_failed, refunded
from tests.support.eventually import eventually
from tests.support.locks import count_lock_waits

DUE_US = START_US + GRACE_US


@pytest.fixture
async def debtor(books: Books) -> str:
    """An account below zero since START_US whose grace period has just ended."""
    [tenant] = tenants_of(1, 1)
    await books.post(simple(1, {tenant: 50}))
    books.clock.set(DUE_US)
    return tenant


async def test_no_permit_without_debt_time_or_account(books: Books, debtor: str) -> None:
    await books.credit("rich", 5, "k1")
    await books.accounts.open("vn", "new")
    refusals = [
        ("rich", START_US, DUE_US, "not-negative"),
        ("new", START_US, DUE_US, "not-negative"),
        ("nobody", START_US, DUE_US, "account-not-found"),
        (debtor, START_US - 1, DUE_US, "negative-since-differs"),
        (debtor, START_US + 1, DUE_US, "negative-since-differs"),
        (debtor, START_US, DUE_US - 1, "grace-period"),
        (debtor, START_US, DUE_US + 1, "not-due"),
    ]
    for tenant, since_us, due_us, code in refusals:
        with pytest.raises(Refusal) as refusal:
            await books.permits.grant("vn", tenant, since_us, due_us)
        assert refusal.value.code == code, tenant
    books.clock.set(DUE_US - 1)
    with pytest.raises(Refusal, match="not-due"):
        await books.permits.grant("vn", debtor, START_US, DUE_US)
    assert await books.rows("select count(*) from deletion_permit") == [(0,)]


async def test_a_permit_is_one_until_it_expires_and_outlives_charges(books: Books, debtor: str) -> None:
    permit = await books.permits.grant("vn", debtor, START_US, DUE_US)
    assert permit.expires_at_us == DUE_US + PERMIT_US
    await books.post(simple(2, {debtor: 7}))
    await books.credit(debtor, -3, "debit")
    books.clock.set(DUE_US + PERMIT_US - 1)
    assert await books.permits.grant("vn", debtor, START_US, DUE_US) == permit
    await books.permits.redeem(permit.permit_id, "ctr-1")
    books.clock.set(DUE_US + PERMIT_US)
    with pytest.raises(Refusal, match="permit-expired"):
        await books.permits.redeem(permit.permit_id, "ctr-2")
    renewed = await books.permits.grant("vn", debtor, START_US, DUE_US)
    assert renewed.permit_id != permit.permit_id
    await books.permits.redeem(renewed.permit_id, "ctr-2")
    assert await books.rows("select number from deletion_permit order by 1") == [(1,), (2,)]


async def test_redeeming_is_idempotent_by_resource_even_after_it_expired(books: Books, debtor: str) -> None:
    permit = await books.permits.grant("vn", debtor, START_US, DUE_US)
    first = await books.permits.redeem(permit.permit_id, "ctr-1")
    books.clock.set(DUE_US + 9 * SECOND_US)
    assert await books.permits.redeem(permit.permit_id, "ctr-1") == first
    books.clock.set(DUE_US + HOUR_US)
    assert await books.permits.redeem(permit.permit_id, "ctr-1") == first
    at_once = await asyncio.gather(
        *(books.permits.redeem(permit.permit_id, "ctr-1") for _ in range(6)), return_exceptions=True
    )
    assert at_once == [first] * 6
    assert await books.rows("select resource_id from permit_redemption") == [("ctr-1",)]


@pytest.mark.parametrize("credit_micros", [1, 50, 51])
@pytest.mark.parametrize("later_us", [0, SECOND_US])
async def test_any_credit_by_an_operator_voids_a_permit(
    books: Books, debtor: str, credit_micros: int, later_us: int
) -> None:
    permit = await books.permits.grant("vn", debtor, START_US, DUE_US)
    await books.permits.redeem(permit.permit_id, "ctr-1")
    books.clock.set(DUE_US + later_us)
    await books.credit(debtor, credit_micros, "k1")
    code = "not-negative" if credit_micros >= 50 else "negative-since-differs"
    for resource_id in ("ctr-1", "ctr-2"):
        with pytest.raises(Refusal, match=code):
            await books.permits.redeem(permit.permit_id, resource_id)
    with pytest.raises(Refusal, match=code):
        await books.permits.grant("vn", debtor, START_US, DUE_US)


async def test_a_credit_correction_voids_a_permit_even_at_the_instant_at_which_the_debt_began(books: Books) -> None:
    [tenant] = tenants_of(1, 1)
    await books.post(simple(1, {tenant: 50}))
    await books.post(encode(make_batch(1, 2, [charges(tenant, [("gpu", "credit_correction", -1)])])))
    books.clock.set(DUE_US)
    # The debt is of the same instant, but the permit would be of before the credit.
    permit = await books.permits.grant("vn", tenant, START_US, DUE_US)
    await books.post(encode(make_batch(1, 3, [charges(tenant, [("gpu", "credit_correction", -1)])])))
    with pytest.raises(Refusal, match="negative-since-differs"):
        await books.permits.redeem(permit.permit_id, "ctr-1")
    again = await books.account(tenant)
    assert again.standing.negative_since_us == DUE_US
    books.clock.set(DUE_US + GRACE_US)
    fresh = await books.permits.grant("vn", tenant, DUE_US, DUE_US + GRACE_US)
    # Up and down again within one batch leaves the balance where it was, and voids the permit all the same.
    totals = [("gpu", "credit_correction", -20), ("gpu", "debit_correction", 20)]
    await books.post(encode(make_batch(1, 4, [charges(tenant, totals)])))  # type: ignore[arg-type]
    assert await books.balance(tenant) == -48
    with pytest.raises(Refusal, match="negative-since-differs"):
        await books.permits.redeem(fresh.permit_id, "ctr-1")


async def test_recovery_and_a_new_debt_leave_the_old_permit_void(books: Books, debtor: str) -> None:
    permit = await books.permits.grant("vn", debtor, START_US, DUE_US)
    await books.credit(debtor, 50, "k1")
    await books.post(simple(2, {debtor: 50}))
    with pytest.raises(Refusal, match="negative-since-differs"):
        await books.permits.redeem(permit.permit_id, "ctr-1")
    with pytest.raises(Refusal, match="grace-period"):
        await books.permits.grant("vn", debtor, DUE_US, DUE_US)


async def test_a_credit_that_is_not_committed_yet_makes_a_grant_and_a_redemption_wait(
    books: Books, debtor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    permit = await books.permits.grant("vn", debtor, START_US, DUE_US)
    posted, go_on = asyncio.Event(), asyncio.Event()

    async def insert_and_wait(connection: Connection, *rest: object) -> Adjustment:
        adjustment = await insert_adjustment(connection, *rest)  # type: ignore[arg-type]
        posted.set()
        await go_on.wait()
        return adjustment

    monkeypatch.setattr(accounts_module, "insert_adjustment", insert_and_wait)
    crediting = asyncio.create_task(books.credit(debtor, 60, "k1"))
    await posted.wait()
    granting = asyncio.create_task(books.permits.grant("vn", debtor, START_US, DUE_US))
    redeeming = asyncio.create_task(books.permits.redeem(permit.permit_id, "ctr-1"))

    async def both_wait() -> bool:
        return await count_lock_waits(books.pool) == 2

    blocked: bool = await eventually(both_wait, what="the grant and the redemption waiting for the account")
    assert blocked
    go_on.set()
    await crediting
    for task in (granting, redeeming):
        with pytest.raises(Refusal, match="not-negative"):
            await task
    assert await books.rows("select count(*) from permit_redemption") == [(0,)]


async def test_grants_redemptions_and_credits_at_once_end_without_a_live_permit(books: Books) -> None:
    names = tenants_of(2, 12)
    await books.post(simple(1, dict.fromkeys(names, 50)))
    books.clock.set(DUE_US)
    # As housekeeping does a day ahead: who makes a partition locks every reader of the ledger out.
    async with transaction(books.pool) as connection:
        await ensure_ledger_partitions(connection, DUE_US)

    async def delete(tenant: str) -> str | None:
        try:
            permit = await books.permits.grant("vn", tenant, START_US, DUE_US)
            await books.permits.redeem(permit.permit_id, "ctr-1")
        except Refusal:
            return None
        return permit.permit_id

    done = await asyncio.gather(
        *(delete(name) for name in names),
        *(books.credit(name, 1 + 60 * (number % 2), "k1") for number, name in enumerate(names)),
    )
    for name, permit_id in zip(names, done, strict=False):
        with pytest.raises(Refusal):
            await books.permits.grant("vn", name, START_US, DUE_US)
        if permit_id is not None:
            with pytest.raises(Refusal):
                await books.permits.redeem(str(permit_id), "ctr-2")
    assert await books.audit() == []


async def lend(books: Books, tenant: str) -> None:
    """A customer who bought 100 and used 80 of it."""
    await books.pay(captured("stripe:pi_1", 100, tenant=tenant))
    await books.post(simple(1, {tenant: 80}))


async def take_back(books: Books, tenant: str, how: str) -> None:
    if how == "an operator's debit":
        await books.credit(tenant, -60, "debit")
    elif how == "a refund":
        await books.pay(refunded("stripe:pi_1", "re_1", 60, tenant=tenant))
    else:
        await books.pay(disputed("stripe:pi_1", "dp_1", held=0, withdrawn=60, tenant=tenant))


@pytest.mark.parametrize("how", ["an operator's debit", "a refund", "a dispute"])
async def test_who_is_below_zero_by_what_was_taken_from_him_loses_nothing(books: Books, how: str) -> None:
    [tenant] = tenants_of(1, 1)
    await lend(books, tenant)
    await take_back(books, tenant, how)
    assert await books.balance(tenant) == -40
    books.clock.set(DUE_US)
    with pytest.raises(Refusal, match="not-own-use"):
        await books.permits.grant("vn", tenant, START_US, DUE_US)

    # His own use takes him below zero as well: a grace period later, and no sooner, that is a reason.
    await books.post(simple(2, {tenant: 21}))
    books.clock.set(DUE_US + GRACE_US - 1)
    with pytest.raises(Refusal, match="not-own-use"):
        await books.permits.grant("vn", tenant, START_US, DUE_US)
    books.clock.set(DUE_US + GRACE_US)
    permit = await books.permits.grant("vn", tenant, START_US, DUE_US)
    await books.permits.redeem(permit.permit_id, "ctr-1")


async def test_own_use_must_be_a_debt_for_the_whole_time_and_not_at_its_ends_alone(books: Books) -> None:
    """In debt for an hour, then his dispute was a debt alone for a day, then in debt for an hour."""
    [tenant] = tenants_of(1, 1)
    await lend(books, tenant)
    await books.post(simple(2, {tenant: 21}))
    books.clock.set(START_US + HOUR_US)
    await books.pay(disputed("stripe:pi_1", "dp_1", held=0, withdrawn=60, tenant=tenant))
    await books.pay(captured("stripe:pi_2", 40, tenant=tenant))
    assert await books.balance(tenant) == -21
    books.clock.set(DUE_US - HOUR_US)
    await books.post(simple(3, {tenant: 40}))
    for now_us in (DUE_US, DUE_US + GRACE_US - HOUR_US - 1):
        books.clock.set(now_us)
        with pytest.raises(Refusal, match="not-own-use"):
            await books.permits.grant("vn", tenant, START_US, DUE_US)
    books.clock.set(DUE_US + GRACE_US - HOUR_US)
    permit = await books.permits.grant("vn", tenant, START_US, DUE_US)
    await books.permits.redeem(permit.permit_id, "ctr-1")


async def test_what_is_taken_after_the_grant_voids_no_permit_of_an_own_debt_and_what_is_won_back_is_no_reversal(
    books: Books, debtor: str
) -> None:
    permit = await books.permits.grant("vn", debtor, START_US, DUE_US)
    await books.credit(debtor, -60, "debit")
    await books.permits.redeem(permit.permit_id, "ctr-1")


async def test_a_redemption_looks_at_the_own_use_again(
    books: Books, debtor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A permit of before the rule, or of a ledger that was corrected: the redemption decides by what is known then."""
    permit = await books.permits.grant("vn", debtor, START_US, DUE_US)

    async def load(*_arguments: object) -> OwnUse:
        return OwnUse(50, 0)

    monkeypatch.setattr(permits_module, "load_own_use", load)
    with pytest.raises(Refusal, match="not-own-use"):
        await books.permits.redeem(permit.permit_id, "ctr-1")


async def test_a_refund_that_failed_and_a_dispute_that_was_won_are_no_reversals(books: Books, debtor: str) -> None:
    await books.pay(
        refunded("stripe:pi_1", "re_1", 60, tenant=debtor),
        disputed("stripe:pi_1", "dp_1", held=0, withdrawn=70, tenant=debtor),
    )
    await books.pay(
        refund_failed("stripe:pi_1", "re_1", 60, tenant=debtor),
        dispute_closed("stripe:pi_1", "dp_1", returned=70, tenant=debtor),
    )
    async with books.pool.acquire() as connection:
        account = await load_account(connection, "vn", debtor)
        assert account is not None
        assert await load_own_use(connection, account.account_id, DUE_US) == OwnUse(0, account.standing.balance_micros)


async def test_unattempted_orders_delay_two_hours_from_when_nothing_else_does(books: Books, debtor: str) -> None:
    """A deletion that something else held up for days: whoever has just begun to pay has his two hours all the same."""
    deletable_us = DUE_US + 100 * HOUR_US

    async def register(name: str) -> None:
        asked = Registration(name, "stripe", 5, deletable_us + 9 * HOUR_US, attempted=False)
        await books.orders.register("vn", debtor, asked)

    books.clock.set(deletable_us)
    permit = await books.permits.grant("vn", debtor, START_US, deletable_us)
    await register("o-1")
    with pytest.raises(Refusal, match="ordered-since"):
        await books.permits.redeem(permit.permit_id, "ctr-1")
    books.clock.set(deletable_us + 2 * HOUR_US - 1)
    with pytest.raises(Refusal, match="pending-order"):
        await books.permits.grant("vn", debtor, START_US, deletable_us)
    books.clock.set(deletable_us + 2 * HOUR_US)
    permit = await books.permits.grant("vn", debtor, START_US, deletable_us)
    await register("o-2")
    await books.permits.redeem(permit.permit_id, "ctr-1")


async def test_unattempted_orders_delay_two_hours_in_all_however_many_are_registered(books: Books, debtor: str) -> None:
    late_us = DUE_US + 2 * HOUR_US

    async def register(name: str, *, attempted: bool = False) -> None:
        asked = Registration(name, "stripe", 5, late_us + HOUR_US, attempted)
        await books.orders.register("vn", debtor, asked)

    await register("o-0")
    books.clock.set(late_us - 1)
    with pytest.raises(Refusal, match="pending-order"):
        await books.permits.grant("vn", debtor, START_US, DUE_US)
    books.clock.set(late_us)
    permit = await books.permits.grant("vn", debtor, START_US, DUE_US)
    # A flood of orders that nobody tries to pay voids nothing any more; the first attempt does.
    for number in range(1, 6):
        await register(f"o-{number}")
        await books.permits.redeem(permit.permit_id, f"ctr-{number}")
    await register("o-3", attempted=True)
    with pytest.raises(Refusal, match="ordered-since"):
        await books.permits.redeem(permit.permit_id, "ctr-9")
