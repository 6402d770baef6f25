"""Grants and vouchers on a real ledger: given once, burnt first, the rest expired once, whoever repeats or races."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

import asyncpg
import pytest

from services.balance.app import grants as grants_module
from services.balance.app import vouchers as vouchers_module
from services.balance.app.grants import GrantRequest
from services.balance.app.vouchers import VoucherRequest
from services.balance.rules.grants import Burning
from services.balance.store.accounts import Account
from services.balance.store.grants import Checkpoint
from services.balance.store.vouchers import Voucher, lock_voucher
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.db import Connection, is_transient, transaction
from shared.errors import Refusal
from shared.ids import shard_of
from tests.balance.batches import SHARDS, charges, encode, make_batch, simple
from tests.balance.books import START_US, Books
from tests.balance.facts import captured, refunded
from tests.support.eventually import eventually
from tests.support.locks import count_lock_waits

DAY = 86_400


def promotion(
    key: str = "p-1", *, amount: int = 100, ends_us: int = START_US + DAY_US, priority: int = 100
) -> GrantRequest:
    return GrantRequest(key, "promotion", amount, priority, "launch", "kim", expires_at_us=ends_us)


def voucher(key: str = "v-1", *, code: str | None = None, times: int = 1) -> VoucherRequest:
    return VoucherRequest(key, "vn", 50, 100, DAY, START_US + DAY_US, times, "fair", "kim", code)


async def left(books: Books, tenant_id: str = "acme") -> list[int]:
    return [item.remaining_micros for item in await books.grants.load("vn", tenant_id)]


def correction(seq: int, amount: int) -> bytes:
    shard = shard_of("vn", "acme", SHARDS)
    return encode(make_batch(shard, seq, [charges("acme", [("gpu", "credit_correction", -amount)])]))


async def test_a_grant_is_given_once_burnt_first_and_its_rest_expires_by_an_entry_of_its_own(books: Books) -> None:
    await books.pay(captured("stripe:pi_1", 1000))
    first = await books.grants.give("vn", "acme", promotion())
    assert await books.grants.give("vn", "acme", promotion()) == first
    with pytest.raises(Refusal, match="idempotency-key-reused"):
        await books.grants.give("vn", "acme", promotion(amount=101))
    await books.post(simple(1, {"acme": 30}))
    assert (await books.balance("acme"), await left(books)) == (1070, [70])
    books.clock.set(START_US + DAY_US)
    kept = await asyncio.gather(*(books.grants.keep() for _ in range(5)))
    assert sum(kept) == 1
    assert (await books.balance("acme"), await left(books)) == (1000, [0])
    rows = await books.rows(
        "select debit_account, credit_account, amount_micros, fact_id from entry where class = 'expiry' order by 4"
    )
    assert rows == [("customer", "promo", 70, f"expiry/{first.grant_id}/1")]
    assert await books.grants.keep() == 0
    assert await books.audit() == []


async def test_what_returns_to_an_expired_grant_expires_at_once(books: Books) -> None:
    await books.grants.give("vn", "acme", promotion())
    await books.post(simple(1, {"acme": 80}))
    books.clock.set(START_US + DAY_US)
    assert await books.grants.keep() == 1
    assert await books.balance("acme") == 0
    await books.post(correction(2, 30))
    assert await books.balance("acme") == 30
    assert await books.grants.keep() == 1
    assert (await books.balance("acme"), await left(books)) == (0, [0])
    assert await books.audit() == []


async def test_charges_after_the_end_do_not_burn_an_expired_grant_however_late_it_is_noticed(books: Books) -> None:
    await books.pay(captured("stripe:pi_1", 1000))
    await books.grants.give("vn", "acme", promotion())
    books.clock.set(START_US + 30 * DAY_US)
    await books.post(simple(1, {"acme": 40}))
    await books.grants.keep()
    assert await books.balance("acme") == 1000 - 40
    assert await books.audit() == []


async def test_grants_burn_by_priority_then_soonest_expiry(books: Books) -> None:
    await books.grants.give("vn", "acme", promotion("late", ends_us=START_US + 3 * DAY_US))
    await books.grants.give("vn", "acme", promotion("soon", ends_us=START_US + DAY_US))
    await books.grants.give("vn", "acme", promotion("first", ends_us=START_US + 9 * DAY_US, priority=1))
    await books.post(simple(1, {"acme": 150}))
    assert await left(books) == [100, 50, 0]
    books.clock.set(START_US + HOUR_US)
    await books.grants.keep()
    assert await left(books) == [100, 50, 0]
    await books.post(simple(2, {"acme": 60}))
    assert await left(books) == [90, 0, 0]


async def test_a_grant_pays_a_debt_of_usage_and_a_refund_never_takes_it(books: Books) -> None:
    await books.post(simple(1, {"acme": 30}))
    await books.grants.give("vn", "acme", promotion())
    assert (await books.balance("acme"), await left(books)) == (70, [70])
    await books.pay(captured("stripe:pi_1", 20), refunded("stripe:pi_1", "stripe:re_1", 20))
    assert (await books.balance("acme"), await left(books)) == (70, [70])


async def test_a_first_grant_does_not_pay_what_was_refunded_before_it(books: Books) -> None:
    await books.pay(captured("stripe:pi_1", 100))
    await books.post(simple(1, {"acme": 90}))
    await books.pay(refunded("stripe:pi_1", "stripe:re_1", 100))
    await books.post(simple(2, {"acme": 5}))
    assert await books.balance("acme") == -95
    await books.grants.give("vn", "acme", promotion())
    # Of the debt, 5 were used and 90 taken back in cash: the grant pays the first alone, and the rest is left of it.
    assert (await books.balance("acme"), await left(books)) == (5, [95])
    books.clock.set(START_US + DAY_US)
    await books.grants.keep()
    assert await books.balance("acme") == -90
    assert await books.audit() == []


async def test_a_burst_of_guesses_gets_no_more_answers_than_one_after_another(books: Books) -> None:
    work = [books.vouchers.redeem("vn", "acme", f"WRONG-CODE-{number}") for number in range(20)]
    results = await asyncio.gather(*work, return_exceptions=True)
    codes = [item.code for item in results if isinstance(item, Refusal)]
    assert (codes.count("voucher-invalid"), codes.count("too-many-codes")) == (3, 17)


async def test_a_rest_expires_once_though_its_process_dies_before_or_after_the_commit(books: Books) -> None:
    async def waits_for_lock() -> bool:
        return await count_lock_waits(books.pool) == 1

    grant = await books.grants.give("vn", "acme", promotion())
    books.clock.set(START_US + 300 * DAY_US)
    async with transaction(books.pool) as blocker:
        # The process is cut off in the middle: the chain head that it needs is held by somebody.
        await blocker.fetch("select from chain_head for update")
        doomed = asyncio.create_task(books.grants.keep())
        blocked: bool = await eventually(waits_for_lock, what="the expiry waiting for its chain head")
        assert blocked
        await books.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and wait_event_type = 'Lock' and pid <> pg_backend_pid()"
        )
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)) as cut:
            await doomed
        assert is_transient(cut.value)
    assert await books.balance("acme") == 100
    # A new process, which knows nothing, finds what is due; another one beside it and after it finds nothing.
    again = Books.wire(books.owner_url, books.pool, books.clock)
    assert sum(await asyncio.gather(again.grants.keep(), books.grants.keep())) == 1
    assert await Books.wire(books.owner_url, books.pool, books.clock).grants.keep() == 0
    rows = await books.rows("select fact_id, amount_micros from entry where class = 'expiry'")
    assert rows == [(f"expiry/{grant.grant_id}/1", 100)]
    assert await books.audit() == []


async def test_the_audit_sees_what_was_left_given_or_counted_wrongly(books: Books) -> None:
    await books.vouchers.issue(voucher(code="REAL-CODE-1"))
    await books.vouchers.redeem("vn", "acme", "REAL-CODE-1")
    assert await books.audit() == []
    for wrong, right in (
        ("update grant_standing set remaining_micros = 1", "update grant_standing set remaining_micros = 0"),
        ("update grant_standing set expiries = 1", "update grant_standing set expiries = 0"),
        ("update voucher set redemptions = 0", "update voucher set redemptions = 1"),
    ):
        await books.rows(wrong)
        assert len(await books.audit()) == 1, wrong
        await books.rows(right)
    assert await books.audit() == []


async def test_an_account_whose_grants_cannot_be_worked_out_holds_up_no_other(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its neighbours' rests expire, and it is tried again later; a second process does nothing twice."""
    for tenant in ("bad", "good"):
        await books.grants.give("vn", tenant, promotion())
    bad = (await books.account("bad")).account_id
    work_out = grants_module._work_out

    async def fail_for_one(connection: Connection, account_id: int, checkpoint: Checkpoint) -> tuple[Burning, int]:
        assert account_id != bad, "planted"
        return await work_out(connection, account_id, checkpoint)

    books.clock.set(START_US + DAY_US)
    other = Books.wire(books.owner_url, books.pool, books.clock)
    with monkeypatch.context() as patch:
        patch.setattr(grants_module, "_work_out", fail_for_one)
        await asyncio.gather(*(each.grants.keep() for each in (books, other, books, other)))
        assert (await books.balance("good"), await books.balance("bad")) == (0, 100)
        [(kind, item, attempts)] = await books.rows("select kind, item, attempts from set_aside")
        assert (kind, item) == ("grant", str(bad))
        assert await books.grants.keep() == 0
        assert await books.rows("select attempts from set_aside") == [(attempts,)], "not before its pause is over"
    books.clock.set(START_US + DAY_US + HOUR_US)
    await asyncio.gather(*(each.grants.keep() for each in (books, other)))
    assert await books.balance("bad") == 0
    assert await books.rows("select count(*) from set_aside") == [(0,)]
    assert await books.rows("select count(*) from entry where class = 'expiry'") == [(2,)]
    assert await books.audit() == []


async def test_a_rest_whose_entry_is_taken_already_holds_up_no_other(books: Books) -> None:
    """As a row that a restore of one table left: what is there each time is no race."""
    for tenant in ("bad", "good"):
        await books.grants.give("vn", tenant, promotion())
    bad = (await books.account("bad")).account_id
    await books.rows(
        f"""
        insert into posted_fact (fact_id, account_id, content_hash, amount_micros, posted_at)
        select 'expiry/' || grant_id || '/1', account_id, '', 0, now() from promotional_grant where account_id = {bad}
        """
    )
    books.clock.set(START_US + DAY_US)
    await books.grants.keep()
    assert (await books.balance("good"), await books.balance("bad")) == (0, 100)
    [(item, reason)] = await books.rows("select item, reason from set_aside")
    assert (item, str(reason).partition(": ")[0]) == (str(bad), "Corruption")


async def test_a_grant_that_would_be_over_already_is_refused_and_one_is_told_as_a_credit(books: Books) -> None:
    with pytest.raises(Refusal, match="grant-expired"):
        await books.grants.give("vn", "acme", promotion(ends_us=START_US))
    grant = await books.grants.give("vn", "acme", promotion())
    [credited] = [event for event in await books.events("acme") if event["type"] == "credited"]
    assert (credited["credit_kind"], credited["credit_id"]) == ("promotion", grant.grant_id)


async def test_a_voucher_is_redeemed_once_per_tenant_and_no_more_often_than_it_may(books: Books) -> None:
    _, code = await books.vouchers.issue(voucher(code="spring-2027", times=3))
    assert code == "SPRING2027"
    tenants = [f"t{number}" for number in range(6)]
    work = [books.vouchers.redeem("vn", name, "Spring 2027") for name in tenants for _ in range(3)]
    results = await asyncio.gather(*work, return_exceptions=True)
    grants = {item.grant_id for item in results if not isinstance(item, BaseException)}
    errors = [item for item in results if isinstance(item, BaseException)]
    assert {type(error) for error in errors} == {Refusal}, errors
    assert (len(grants), {getattr(error, "code", "") for error in errors}) == (3, {"voucher-used-up"})
    accounts = await books.rows("select balance_micros from account where balance_micros <> 0")
    assert accounts == [(50,)] * 3
    assert await books.rows("select redemptions from voucher") == [(3,)]
    assert await books.audit() == []


async def test_two_who_redeem_a_voucher_at_one_instant_are_told_apart_by_its_lock(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first goes on once the second waits for the lock; without one the second would have looked by then."""
    await books.vouchers.issue(voucher(code="spring-2027"))
    looked: list[Voucher | None] = []

    async def second_came() -> bool:
        return len(looked) > 1 or await count_lock_waits(books.pool) > 0

    async def lock_and_wait(connection: Connection, code_hash: bytes) -> Voucher | None:
        locked = await lock_voucher(connection, code_hash)
        looked.append(locked)
        if len(looked) == 1:
            came: bool = await eventually(second_came, what="the second one")
            assert came
        return locked

    monkeypatch.setattr(vouchers_module, "lock_voucher", lock_and_wait)
    # Of two shards, and known before: nothing else that they would wait for.
    of_shard = {shard_of("vn", f"t{number}", SHARDS): f"t{number}" for number in range(9)}
    tenants = list(of_shard.values())[:2]
    for name in tenants:
        await books.grants.give("vn", name, promotion())
    work = [books.vouchers.redeem("vn", name, "Spring 2027") for name in tenants]
    results = await asyncio.gather(*work, return_exceptions=True)
    errors = [item for item in results if isinstance(item, BaseException)]
    assert [(type(error), getattr(error, "code", "")) for error in errors] == [(Refusal, "voucher-used-up")]
    assert await books.rows("select balance_micros from account order by 1 desc limit 2") == [(150,), (100,)]


async def test_a_code_is_told_once_and_a_repeat_of_its_issue_changes_nothing(books: Books) -> None:
    issued, code = await books.vouchers.issue(voucher())
    again, nothing = await books.vouchers.issue(voucher())
    assert (code, nothing, again.voucher_id) == ("MADECODE0001", None, issued.voucher_id)
    with pytest.raises(Refusal, match="idempotency-key-reused"):
        await books.vouchers.issue(voucher(times=2))
    with pytest.raises(Refusal, match="voucher-code-taken"):
        await books.vouchers.issue(voucher("v-2", code="made code 0001"))
    with pytest.raises(Refusal, match="unknown-region"):
        await books.vouchers.issue(replace(voucher("v-3"), region="eu"))
    kept = await books.rows("select count(*) from voucher where encode(code_hash, 'escape') like '%MADE%'")
    assert kept == [(0,)]


async def test_guessing_is_bounded_and_tells_nothing(books: Books) -> None:
    await books.vouchers.issue(voucher(code="REAL-CODE-1"))
    await books.vouchers.issue(replace(voucher("v-2", code="OTHER-REGION"), region="jp"))
    for guess in ("WRONG-CODE-1", "other-region", "x"):
        with pytest.raises(Refusal, match="voucher-invalid: this code is not valid here"):
            await books.vouchers.redeem("vn", "acme", guess)
    with pytest.raises(Refusal, match="too-many-codes"):
        await books.vouchers.redeem("vn", "acme", "REAL-CODE-1")
    assert (await books.vouchers.redeem("vn", "other", "REAL-CODE-1")).amount_micros == 50
    books.clock.set(START_US + HOUR_US)
    with pytest.raises(Refusal, match="voucher-used-up"):
        await books.vouchers.redeem("vn", "acme", "REAL-CODE-1")
    # The hours before are forgotten.
    assert await books.rows("select hour from voucher_guess where tenant_id = 'acme'") == [(START_US + HOUR_US,)]


async def test_a_voucher_that_is_over_is_refused_but_a_repeat_answers_what_was_given(books: Books) -> None:
    await books.vouchers.issue(voucher(code="REAL-CODE-1", times=2))
    given = await books.vouchers.redeem("vn", "acme", "REAL-CODE-1")
    assert given.expires_at_us == START_US + DAY_US
    books.clock.set(START_US + DAY_US)
    assert await books.vouchers.redeem("vn", "acme", "REAL-CODE-1") == given
    with pytest.raises(Refusal, match="voucher-expired"):
        await books.vouchers.redeem("vn", "other", "REAL-CODE-1")
    assert await books.rows("select count(*) from account where tenant_id = 'other'") == [(0,)]


async def test_grants_and_charges_at_once_end_with_what_the_entries_say(books: Books) -> None:
    ends = {f"p-{number}": START_US + (number + 1) * HOUR_US for number in range(6)}
    work: list[Awaitable[object]] = [
        books.grants.give("vn", "acme", promotion(key, ends_us=end_us)) for key, end_us in ends.items()
    ]
    work += [books.post(simple(number, {"acme": 35})) for number in range(1, 6)]
    work += [books.grants.keep() for _ in range(5)]
    await asyncio.gather(*work)
    for hour in range(8):
        books.clock.set(START_US + hour * HOUR_US + SECOND_US)
        await books.grants.keep()
    account: Account = await books.account("acme")
    assert account.standing.balance_micros >= 0 or account.standing.state == "negative"
    assert sum(await left(books)) == 0
    assert await books.audit() == []
