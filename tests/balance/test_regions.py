"""One tenant id in two regions is two accounts: nothing asked of one touches the other."""

import pytest

from services.balance.app.orders import Registration
from services.balance.store.accounts import load_accounts_of
from shared.clock import DAY_US
from shared.errors import Refusal
from shared.ids import shard_of
from tests.balance.batches import SHARDS, charges, encode, make_batch
from tests.balance.books import GRACE_US, START_US, Books
from tests.balance.facts import captured
from tests.balance.test_grants import promotion

TENANT = "acme"
DUE_US = START_US + GRACE_US


def charge(region: str, seq: int, amount: int) -> bytes:
    shard = shard_of(region, TENANT, SHARDS)
    return encode(make_batch(shard, seq, [charges(TENANT, [("gpu", "charge", amount)], region=region)]))


async def balances(books: Books) -> tuple[int, int]:
    found = [(await books.account(TENANT, region)).standing.balance_micros for region in ("jp", "vn")]
    return found[0], found[1]


@pytest.fixture
async def both(books: Books) -> Books:
    # vn first, so that a lookup by tenant alone would find it for jp too.
    for region in ("vn", "jp"):
        await books.accounts.open(region, TENANT)
    return books


async def test_charges_adjustments_payments_and_grants_move_their_own_region(both: Books) -> None:
    seqs = {shard_of(region, TENANT, SHARDS): 0 for region in ("vn", "jp")}
    for region, amount in (("jp", 5), ("vn", 7)):
        shard = shard_of(region, TENANT, SHARDS)
        seqs[shard] += 1
        await both.consume(charge(region, seqs[shard], amount))
    assert await balances(both) == (-5, -7)
    await both.credit(TENANT, 100, "k", region="jp")
    await both.credit(TENANT, 1, "k", region="vn")
    assert await balances(both) == (95, -6)
    await both.pay(captured("p-1", 10, region="jp", currency="JPY"))
    assert await balances(both) == (105, -6)
    await both.grants.give("jp", TENANT, promotion())
    assert [len(await both.grants.load(region, TENANT)) for region in ("jp", "vn")] == [1, 0]
    both.clock.set(START_US + 30 * DAY_US)
    await both.grants.keep()
    assert await balances(both) == (105, -6)
    assert await both.audit() == []


async def test_permits_and_orders_are_of_their_own_region(both: Books) -> None:
    await both.consume(charge("jp", 1, 5))
    both.clock.set(DUE_US)
    with pytest.raises(Refusal, match="not-negative"):
        await both.permits.grant("vn", TENANT, START_US, DUE_US)
    permit = await both.permits.grant("jp", TENANT, START_US, DUE_US)
    await both.orders.register("vn", TENANT, Registration("o-vn", "stripe", 5, DUE_US + DAY_US, attempted=True))
    await both.credit(TENANT, 5, "k", region="vn")
    await both.permits.redeem(permit.permit_id, "ctr-1")
    await both.orders.register("jp", TENANT, Registration("o-jp", "stripe", 5, DUE_US + DAY_US, attempted=True))
    with pytest.raises(Refusal, match="ordered-since"):
        await both.permits.redeem(permit.permit_id, "ctr-2")


async def test_accounts_loaded_together_are_those_asked_for(both: Books) -> None:
    async with both.pool.acquire() as connection:
        found = await load_accounts_of(connection, [("jp", TENANT)])
    assert list(found) == [("jp", TENANT)]
    assert found["jp", TENANT].currency == "JPY"
