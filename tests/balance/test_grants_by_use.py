"""Promotional credit pays for what was used before its end, whenever it is posted, and expires once that is posted."""

import pytest

from services.balance.api import BalanceApi
from services.balance.app.grants import GrantRequest
from shared.clock import HOUR_US, MINUTE_US, SECOND_US
from shared.ids import shard_of
from tests.balance.batches import SHARDS, charges, encode, idle, make_batch, used
from tests.balance.books import START_US, Books
from tests.balance.facts import captured

END_US = START_US + HOUR_US


def grant(key: str = "p-1", *, amount: int = 100, ends_us: int = END_US, priority: int = 100) -> GrantRequest:
    return GrantRequest(key, "promotion", amount, priority, "launch", "kim", expires_at_us=ends_us)


async def left(books: Books) -> list[int]:
    return [item.remaining_micros for item in await books.grants.load("vn", "acme")]


async def works_out(books: Books) -> bool:
    api = BalanceApi(books.pool, books.clock, books.accounts, books.permits)
    answer: bool = (await api.account("vn", "acme"))["working_out"]
    return answer


@pytest.fixture
async def granted(books: Books) -> Books:
    """1000 bought, and a grant of 100 for an hour."""
    await books.pay(captured("stripe:pi_1", 1000))
    await books.grants.give("vn", "acme", grant())
    return books


async def test_the_last_minute_of_a_grant_is_paid_by_it_though_it_is_posted_after_its_end(granted: Books) -> None:
    granted.clock.set(END_US + 5 * SECOND_US)
    await granted.post(used(1, "acme", 30, END_US - MINUTE_US))
    assert await left(granted) == [70]
    assert await granted.grants.keep() == 1
    assert (await granted.balance("acme"), await left(granted)) == (1000, [0])
    assert await granted.audit() == []


async def test_metering_that_is_late_over_a_grants_end_burns_and_expires_as_one_in_time(granted: Books) -> None:
    granted.clock.set(END_US - 3 * MINUTE_US)
    await granted.post(used(1, "acme", 10, END_US - 4 * MINUTE_US))
    granted.clock.set(END_US + 10 * MINUTE_US)
    assert await granted.grants.keep() == 0, "three minutes of it are not posted"
    # Ten a minute: three minutes are the grant's, five are not.
    await granted.post(used(2, "acme", 80, END_US - 3 * MINUTE_US, 8))
    assert await left(granted) == [60]
    assert await granted.grants.keep() == 1
    assert (await granted.balance("acme"), await left(granted)) == (1000 - 50, [0])
    assert await granted.audit() == []


async def test_a_late_metering_makes_no_debt_of_what_a_grant_covers(books: Books) -> None:
    await books.grants.give("vn", "acme", grant())
    books.clock.set(END_US + 10 * MINUTE_US)
    assert await books.grants.keep() == 1, "a metering that never says how far it is leaves it to the clock"
    await books.grants.give("vn", "acme", grant("p-2", ends_us=END_US + HOUR_US))
    await books.post(idle(1, "acme", END_US))
    books.clock.set(END_US + 2 * HOUR_US)
    assert await books.grants.keep() == 0
    await books.post(used(2, "acme", 100, END_US, 10))
    assert (await books.balance("acme"), (await books.account("acme")).standing.negative_since_us) == (0, None)


async def test_what_is_used_after_the_end_is_not_paid_by_a_grant_that_is_not_expired_yet(granted: Books) -> None:
    granted.clock.set(END_US + 2 * MINUTE_US)
    # The tick is not over with this batch: an account may have lines in the next one.
    await granted.post(used(1, "acme", 30, END_US, through=END_US - MINUTE_US))
    assert (await granted.balance("acme"), await left(granted)) == (1070, [100])
    assert await granted.grants.keep() == 0
    await granted.post(used(2, "acme", 5, END_US - MINUTE_US))
    assert await left(granted) == [95]
    assert await granted.grants.keep() == 1
    assert (await granted.balance("acme"), await left(granted)) == (970, [0])
    assert await granted.audit() == []


async def test_a_grant_of_an_idle_account_expires_with_an_empty_batch(granted: Books) -> None:
    granted.clock.set(END_US + 30 * MINUTE_US)
    await granted.post(idle(1, "acme", END_US - SECOND_US))
    assert await granted.grants.keep() == 0
    [shown] = await granted.grants.load("vn", "acme")
    assert (shown.state, shown.remaining_micros) == ("ended", 100)
    await granted.post(idle(2, "acme", END_US))
    assert await granted.grants.keep() == 1
    [shown] = await granted.grants.load("vn", "acme")
    assert (shown.state, shown.remaining_micros) == ("expired", 0)
    assert await granted.audit() == []


async def test_an_end_within_a_minute_counts_as_the_minutes(granted: Books) -> None:
    """A batch of one minute says no more than that: all of the minute in which a grant ends is paid by it."""
    await granted.grants.give("vn", "acme", grant("p-2", ends_us=END_US + 5 * MINUTE_US + SECOND_US))
    granted.clock.set(END_US + HOUR_US)
    await granted.post(used(1, "acme", 200, END_US - 2 * MINUTE_US, 10))
    # Of p-1 two minutes of twenty; of p-2 the next six, with the one in which it ends.
    assert await left(granted) == [60, 0]
    assert await granted.grants.keep() == 1
    assert await granted.balance("acme") == 1000 - 60
    assert await granted.audit() == []


async def test_a_late_correction_of_use_within_a_grant_is_paid_by_it(granted: Books) -> None:
    granted.clock.set(END_US - MINUTE_US)
    await granted.post(idle(1, "acme", END_US - 2 * MINUTE_US))
    granted.clock.set(END_US + SECOND_US)
    late = charges("acme", [("gpu", "debit_correction", 40)])
    window = END_US - 10 * MINUTE_US, END_US - 6 * MINUTE_US
    await granted.post(encode(make_batch(shard_of("vn", "acme", SHARDS), 2, [late], used=window, slots=4)))
    assert await left(granted) == [60]


async def test_what_is_told_after_the_rest_expired_takes_it_back_as_a_correction(granted: Books) -> None:
    await granted.post(used(1, "acme", 10, END_US - MINUTE_US))
    granted.clock.set(END_US + MINUTE_US)
    assert await granted.grants.keep() == 1
    await granted.post(used(2, "acme", 7, END_US))
    assert await granted.balance("acme") == 1000 - 7
    assert not await works_out(granted)
    # Four minutes before the end and two after it, ten in each.
    late = charges("acme", [("gpu", "debit_correction", 60)])
    window = END_US - 4 * MINUTE_US, END_US + 2 * MINUTE_US
    await granted.post(encode(make_batch(shard_of("vn", "acme", SHARDS), 3, [late], used=window, slots=6)))
    assert await granted.balance("acme") == 1000 - 67
    assert await works_out(granted), "the balance is not yet what it will be"
    assert await granted.audit() == []
    assert await granted.grants.keep() == 1
    assert (await granted.balance("acme"), await left(granted)) == (1000 - 7 - 20, [0])
    assert not await works_out(granted)
    assert await granted.audit() == []
    # What was told is corrected away again: it returns to the grant, and expires.
    gone = charges("acme", [("gpu", "credit_correction", -60)])
    await granted.post(encode(make_batch(shard_of("vn", "acme", SHARDS), 4, [gone])))
    while await granted.grants.keep():
        pass
    assert await granted.balance("acme") == 1000 - 7
    rows = await granted.rows("select credit_account, amount_micros from entry where class = 'expiry' order by 2")
    assert rows == [("customer", 40), ("promo", 40), ("promo", 90)]
    assert await granted.audit() == []


async def test_a_debt_of_what_an_expired_grant_covers_is_over_at_once(books: Books) -> None:
    await books.grants.give("vn", "acme", grant())
    await books.post(idle(1, "acme", END_US))
    books.clock.set(END_US)
    assert await books.grants.keep() == 1
    await books.post(used(2, "acme", 30, END_US - HOUR_US // 2, through=END_US))
    assert (await books.account("acme")).standing.state == "negative"
    assert await books.grants.keep() == 1
    standing = (await books.account("acme")).standing
    assert (standing.balance_micros, standing.negative_since_us) == (0, None)
    assert await books.audit() == []


async def test_the_audit_sees_when_a_batch_was_used(granted: Books, postgres_admin_url: str) -> None:
    await granted.post(used(1, "acme", 30, START_US))
    change = "update evidence set used_from = used_from + interval '1 hour'"
    await granted.as_superuser(postgres_admin_url, "set session_replication_role = replica", change)
    [found] = await granted.audit()
    assert "used" in found.what
