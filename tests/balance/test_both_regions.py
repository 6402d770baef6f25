"""One tenant in two regions has two accounts: whatever is done to one leaves the other as it was.

Keys of two columns were tested with one of them varying.
"""

from collections.abc import Awaitable, Callable

import pytest

from services.balance.app.grants import GrantRequest
from services.balance.app.orders import Registration
from services.balance.app.vouchers import VoucherRequest
from services.balance.store import accounts as account_store
from shared.clock import DAY_US, HOUR_US
from shared.errors import Refusal
from shared.ids import shard_of
from tests.balance.batches import SHARDS, charges, encode, make_batch
from tests.balance.books import GRACE_US, START_US, Books
from tests.balance.facts import captured
from tests.support.planting import plant

CURRENCIES = {"vn": "VND", "jp": "JPY"}
Act = Callable[[Books, str], Awaitable[object]]


async def adjust(books: Books, region: str) -> None:
    await books.credit("acme", 70, "k", region=region)


async def grant(books: Books, region: str) -> None:
    request = GrantRequest("g", "promotion", 70, 100, "launch", "kim", expires_at_us=START_US + DAY_US)
    await books.grants.give(region, "acme", request)


async def redeem(books: Books, region: str) -> None:
    request = VoucherRequest("v", region, 70, 100, 86_400, START_US + DAY_US, 1, "fair", "kim", "CODE-0001")
    await books.vouchers.issue(request)
    await books.vouchers.redeem(region, "acme", "CODE-0001")


async def register(books: Books, region: str) -> None:
    await books.orders.register(region, "acme", Registration("o-1", "stripe", 70, START_US + HOUR_US, attempted=False))


async def pay(books: Books, region: str) -> None:
    await books.pay(captured("stripe:pi_1", 70, region=region, currency=CURRENCIES[region]))


async def charge(books: Books, region: str) -> None:
    shard = shard_of(region, "acme", SHARDS)
    [(last,)] = await books.rows("select coalesce(max(seq), 0) from charge_stream where shard = $1", shard)
    part = charges("acme", [("gpu", "charge", 30)], region=region, burn=5)
    await books.post(encode(make_batch(shard, int(str(last)) + 1, [part])))


async def permit(books: Books, region: str) -> None:
    """An account below zero gets a permit; the other is not below zero, so its neighbour's debt is none of its own."""
    await charge(books, region)
    books.clock.set(START_US + GRACE_US)
    since_us = (await books.account("acme", region)).standing.negative_since_us
    assert since_us is not None
    await books.permits.grant(region, "acme", since_us, since_us + GRACE_US)
    [other] = {"vn", "jp"} - {region}
    with pytest.raises(Refusal, match="not-negative"):
        await books.permits.grant(other, "acme", since_us, since_us + GRACE_US)


ACTS: tuple[Act, ...] = (adjust, grant, redeem, register, pay, charge, permit)


async def snapshot(books: Books, region: str) -> list[list[tuple[object, ...]]]:
    """All that is kept of a region's one account."""
    [account] = await books.rows("select * from account where region = $1", region)
    account_id = (await books.account("acme", region)).account_id
    query = "select * from {} where account_id = $1 order by 1, 2"
    tables = ("entry", "pending_order", "deletion_permit", "promotional_grant")
    return [[account], *[await books.rows(query.format(table), account_id) for table in tables]]


async def open_both(books: Books, region: str) -> None:
    """The other is opened first, so that it is what a query without the region finds."""
    for name in (*({"vn", "jp"} - {region}), region):
        await books.accounts.open(name, "acme")


async def leaves_the_other_alone(books: Books, act: Act, region: str) -> None:
    [other] = {"vn", "jp"} - {region}
    before, own = await snapshot(books, other), await snapshot(books, region)
    await act(books, region)
    assert await snapshot(books, other) == before
    assert await snapshot(books, region) != own
    assert await books.audit() == []


@pytest.mark.parametrize("region", ["vn", "jp"])
@pytest.mark.parametrize("act", ACTS)
async def test_an_account_of_the_same_tenant_elsewhere_stays_as_it_was(books: Books, act: Act, region: str) -> None:
    await open_both(books, region)
    await leaves_the_other_alone(books, act, region)


@pytest.mark.parametrize("act", [adjust, grant, register])
async def test_a_lock_without_the_region_is_seen(books: Books, monkeypatch: pytest.MonkeyPatch, act: Act) -> None:
    await open_both(books, "vn")
    plant(monkeypatch, account_store.lock_account, "region = $1 and tenant_id", "$1::text is not null and tenant_id")
    with pytest.raises((AssertionError, Refusal)):
        await leaves_the_other_alone(books, act, "vn")
