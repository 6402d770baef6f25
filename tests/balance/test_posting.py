"""Posting against real PostgreSQL: entries, order, repeats, gaps, conflicts."""

import pytest

from shared.ids import shard_of
from tests.balance.batches import SHARDS, charges, encode, make_batch, simple, tenants_of
from tests.balance.books import START_US, Books


async def test_a_charge_opens_its_account_and_debits_it(books: Books) -> None:
    [tenant] = tenants_of(1, 1)
    await books.post(simple(1, {tenant: 500}, burn=30_000))
    account = await books.account(tenant)
    assert account.standing.balance_micros == -500
    assert account.standing.state == "negative"
    assert account.standing.negative_since_us == START_US
    assert account.standing.burn_micros_per_hour == 30_000
    assert account.currency == "VND"
    events = await books.events(tenant)
    assert [event["type"] for event in events] == ["opened", "exhausted", "negative"]
    assert [event["account_version"] for event in events] == [1, 2, 3]
    assert [event["negative_since"] for event in events] == [None, "2027-01-15T08:00:00Z", "2027-01-15T08:00:00Z"]
    assert await books.audit() == []


async def test_entries_are_posted_corrections_first_and_kinds_alphabetical(books: Books) -> None:
    [tenant] = tenants_of(0, 1)
    totals = [
        ("storage", "charge", 5),
        ("gpu", "charge", 7),
        ("gpu", "debit_correction", 3),
        ("gpu", "credit_correction", -11),
        ("storage", "credit_correction", 0),
    ]
    await books.post(encode(make_batch(0, 1, [charges(tenant, totals)])))  # type: ignore[arg-type]
    found = await books.rows(
        "select entry_number, debit_account, credit_account, amount_micros, balance_after_micros, class from entry"
        " order by entry_number"
    )
    assert found == [
        (1, "revenue:gpu", "customer", 11, 11, "credit_correction"),
        (2, "customer", "revenue:gpu", 3, 8, "debit_correction"),
        (3, "customer", "revenue:gpu", 7, 1, "charge"),
        (4, "customer", "revenue:storage", 5, -4, "charge"),
    ]
    assert await books.told(tenant) == ["opened", "exhausted", "negative"]
    assert await books.audit() == []


async def test_several_batches_of_a_poll_post_in_order(books: Books) -> None:
    [tenant, other] = tenants_of(2, 2)
    await books.credit(tenant, 100, "k1")
    await books.post(simple(1, {tenant: 60, other: 1}), simple(2, {tenant: 30}), simple(3, {tenant: 30}))
    after = await books.rows(
        "select balance_after_micros from entry join account using (account_id) where tenant_id = $1"
        " order by entry_number",
        tenant,
    )
    assert after == [(100,), (40,), (10,), (-20,)]
    assert await books.told(tenant) == ["opened", "credited", "exhausted", "negative"]
    assert await books.audit() == []


async def test_a_repeat_changes_nothing(books: Books) -> None:
    [tenant] = tenants_of(1, 1)
    first, second = simple(1, {tenant: 5}), simple(2, {tenant: 6})
    await books.post(first, second)
    await books.post(first, second, first)
    await books.post(second)
    assert await books.balance(tenant) == -11
    assert await books.rows("select seq, stopped_reason from charge_stream") == [(2, None)]
    assert await books.rows("select * from charge_waiting") == []


async def test_what_comes_after_a_gap_waits_and_posts_when_it_is_filled(books: Books) -> None:
    [tenant] = tenants_of(1, 1)
    batches = [simple(seq, {tenant: seq}) for seq in range(1, 6)]
    await books.post(batches[0], batches[2])
    await books.post(batches[4], batches[2])
    assert await books.balance(tenant) == -1
    await books.post(batches[3])
    assert await books.rows("select seq from charge_waiting order by seq") == [(3,), (4,), (5,)]
    await books.post(batches[1])
    assert await books.balance(tenant) == -15
    assert await books.rows("select seq from charge_waiting") == []
    assert await books.rows("select seq from entry order by entry_number") == [(1,), (2,), (3,), (4,), (5,)]
    assert await books.audit() == []


@pytest.mark.parametrize("in_one_poll", [True, False])
async def test_a_conflicting_repeat_stops_its_shard_only(books: Books, in_one_poll: bool) -> None:  # noqa: FBT001
    [tenant], [neighbour] = tenants_of(1, 1), tenants_of(2, 1)
    values = [simple(1, {tenant: 5}), simple(1, {neighbour: 5}), simple(1, {tenant: 6}), simple(2, {neighbour: 5})]
    if in_one_poll:
        await books.post(*values)
    else:
        for value in values:
            await books.post(value)
    await books.post(simple(2, {tenant: 1}), simple(3, {neighbour: 1}))
    assert await books.balance(tenant) == -5
    assert await books.balance(neighbour) == -11
    streams = await books.rows("select shard, seq, stopped_reason from charge_stream order by shard")
    assert streams == [(1, 1, "batch 1 came again with other contents"), (2, 3, None)]
    assert await books.rows("select shard, seq from charge_waiting order by seq") == [(1, 1), (1, 2)]


async def test_a_region_of_another_deployment_stops_the_stream(books: Books) -> None:
    number = next(n for n in range(100) if _shard("us", f"u{n}") == 3)
    [neighbour] = tenants_of(3, 1)
    foreign = make_batch(
        3, 1, [charges(f"u{number}", [("gpu", "charge", 5)], region="us"), charges(neighbour, [("gpu", "charge", 5)])]
    )
    await books.post(encode(foreign))
    assert await books.rows("select * from account") == []
    [(seq, reason)] = await books.rows("select seq, stopped_reason from charge_stream")
    assert seq == 0
    assert "region us" in str(reason)


async def test_an_account_of_another_shard_stops_the_stream(books: Books) -> None:
    [stranger] = tenants_of(2, 1)
    await books.post(encode(make_batch(1, 1, [charges(stranger, [("gpu", "charge", 5)])])))
    assert await books.rows("select * from account") == []
    [(reason,)] = await books.rows("select stopped_reason from charge_stream")
    assert "another shard" in str(reason)


async def test_what_is_no_batch_is_buried_and_neighbours_go_on(books: Books) -> None:
    [tenant] = tenants_of(1, 1)
    await books.post(None, b"", b"not zstd", simple(1, {tenant: 5}), b"\x28\xb5\x2f\xfd")
    assert await books.balance(tenant) == -5
    assert len(books.dead) == 4
    assert await books.rows("select count(*) from dead_letter") == [(4,)]


async def test_a_change_of_burn_alone_is_kept_and_may_say_low(books: Books) -> None:
    [tenant] = tenants_of(1, 1)
    await books.credit(tenant, 1000, "k1")
    await books.post(encode(make_batch(1, 1, [charges(tenant, [], burn=1001)])))
    await books.post(encode(make_batch(1, 2, [charges(tenant, [], burn=0)])))
    account = await books.account(tenant)
    assert account.standing.burn_micros_per_hour == 0
    assert account.standing.state == "ok"
    assert await books.told(tenant) == ["opened", "credited", "low"]
    assert await books.audit() == []


async def test_posting_time_never_goes_back(books: Books) -> None:
    [tenant] = tenants_of(1, 1)
    await books.post(simple(1, {tenant: 5}))
    books.clock.set(START_US - 3_600_000_000)
    await books.post(simple(2, {tenant: 5}))
    books.clock.set(START_US + 730 * 86_400_000_000)
    await books.post(simple(3, {tenant: 5}))
    found = await books.rows("select posted_at from entry order by entry_number")
    assert found == [(START_US,), (START_US,), (START_US + 730 * 86_400_000_000,)]
    assert await books.audit() == []


def _shard(region: str, tenant_id: str) -> int:
    return shard_of(region, tenant_id, SHARDS)


@pytest.mark.parametrize("wrong_order", [True, False])
async def test_two_totals_are_posted_correction_first(books: Books, wrong_order: bool) -> None:  # noqa: FBT001
    """As metering sends them, sorted by the class's name: the charge would empty the account if it came first."""
    [tenant] = tenants_of(0, 1)
    await books.credit(tenant, 5, "k1")
    totals = [("gpu", "charge", 9), ("gpu", "credit_correction", -6)]
    listed = totals if wrong_order else totals[::-1]
    await books.post(encode(make_batch(0, 1, [charges(tenant, listed)])))  # type: ignore[arg-type]
    after = await books.rows("select class, balance_after_micros from entry where seq = 1 order by entry_number")
    assert after == [("credit_correction", 11), ("charge", 2)]
    assert await books.told(tenant) == ["opened", "credited"]
