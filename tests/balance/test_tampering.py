"""Whatever a superuser changes in the books, the audit finds it."""

from typing import Any

import pytest

from services.balance.app.anchors import Anchoring, load_chain_heads
from services.balance.audit import chain
from services.balance.audit.chain import Anchor
from services.balance.rules.chain import seal
from shared.clock import HOUR_US
from shared.db import transaction
from shared.events.anchors import ChainHead
from shared.ids import content_hash
from shared.topics import ANCHORS
from tests.balance.batches import CHARGED_AT_US, charges, encode, make_batch, simple, tenants_of
from tests.balance.books import START_US, Books
from tests.balance.facts import captured
from tests.balance.test_grants import promotion
from tests.balance.test_hours import close_all

[ONE, OTHER] = tenants_of(1, 2)
MOVED = simple(2, {ONE: 20, OTHER: 10})
FORGED = f"update evidence set value = '\\x{MOVED.hex()}', sha256 = '\\x{content_hash(MOVED).hex()}' where seq = 2"

# The totals of batch 3 with lines of another resource: nothing but the chain knows which bytes were posted.
RELINED = encode(
    make_batch(1, 3, [charges(ONE, [("gpu", "charge", 5)])]).model_copy(update={"charged_at": CHARGED_AT_US + 1})
)
OTHER_LINES = (
    f"update evidence set value = '\\x{RELINED.hex()}', sha256 = '\\x{content_hash(RELINED).hex()}' where seq = 3"
)

TAMPERINGS = {
    "evidence of the same totals": OTHER_LINES,
    "evidence of another account": FORGED,
    "a byte of evidence": "update evidence set value = value || '\\x00' where seq = 2",
    "evidence deleted": "delete from evidence where seq = 3",
    "an adjustment's amount": "update adjustment set amount_micros = amount_micros + 1",
    "an adjustment's reason": "update adjustment set reason = 'another'",
    "an adjustment's actor": "update adjustment set actor = 'another'",
    "an adjustment deleted": "delete from adjustment",
    "whose adjustments they are": "update account set tenant_id = 'other-' || tenant_id",
    "another account's name": f"update account set tenant_id = 'thief' where tenant_id = '{ONE}'",
    "a stream that stands too far": "update charge_stream set seq = seq + 7",
    "a debt that is older": "update account set negative_since = negative_since - interval '2 days'",
    "a debt that is younger": "update account set negative_since = negative_since + interval '1 second'",
    "no debt": "update account set negative_since = null",
    "a burn": f"update account set burn_micros_per_hour = 7 where tenant_id = '{ONE}'",
    "an hour closed too far": "update chain_head set closed_through = closed_through + interval '9 hours'",
    "half an hour closed": "update chain_head set closed_through = closed_through - interval '1 minute'",
    "an entry's amount": "update entry set amount_micros = amount_micros + 1 where seq = 2",
    "an entry's side": "update entry set credit_account = 'revenue:x' where seq = 2",
    "an entry's balance": "update entry set balance_after_micros = 0 where seq = 2",
    "an entry's time": "update entry set posted_at = posted_at + interval '1 second' where seq = 2",
    "an entry's batch": "update entry set seq = 3 where seq = 2",
    "an entry deleted": "delete from entry where seq = 2",
    "a link": "update chain_link set link = '\\x00' where link_number = 2",
    "a link's time": "update chain_link set posted_at = posted_at + interval '1 second' where link_number = 2",
    "the last link deleted": "delete from chain_link where link_number = (select max(link_number) from chain_link)",
    "a balance": "update account set balance_micros = balance_micros + 1",
    "a number of credits": "update account set credits = credits + 1",
    "a fact's amount": "update posted_fact set amount_micros = amount_micros + 1",
    "a grant's amount": "update promotional_grant set amount_micros = amount_micros + 1",
    "a row of an hour": "update resource_hour set amount_micros = amount_micros + 1",
}


# What no account can be named for, or what only the audit of all accounts reads.
OF_SHARDS = {
    "evidence deleted",
    "a stream that stands too far",
    "a burn",
    "an hour closed too far",
    "half an hour closed",
    "the last link deleted",
    "a row of an hour",
}


async def fill(books: Books) -> None:
    """Two accounts with all kinds of entries; the first hour is closed."""
    await books.credit(ONE, 12, "k-1")
    await books.grants.give("vn", OTHER, promotion(amount=4))
    await books.pay(captured("p-1", 3, tenant=OTHER))
    await books.post(simple(1, {ONE: 1, OTHER: 2}), simple(2, {ONE: 10, OTHER: 20}))
    books.clock.set(START_US + HOUR_US)
    await close_all(books)
    await books.post(simple(3, {ONE: 5}))
    assert await books.audit() == []


@pytest.mark.parametrize("name", TAMPERINGS)
async def test_the_audit_finds(name: str, books: Books, postgres_admin_url: str) -> None:
    await fill(books)
    await books.as_superuser(postgres_admin_url, "set session_replication_role = replica", TAMPERINGS[name])
    found = await books.audit()
    assert found != []
    assert all(item.at_us is not None for item in found if item.account != "all accounts")


async def heads_of(books: Books) -> list[Anchor]:
    async with books.pool.acquire() as connection:
        heads = await load_chain_heads(connection)
    return [Anchor(head.shard, head.link_number, bytes.fromhex(head.link), head.posted_at) for head in heads]


async def rewrite_chain(books: Books, admin_url: str) -> None:
    """What a superuser with this program can do: change an entry, and seal every link anew."""
    await books.as_superuser(
        admin_url,
        "set session_replication_role = replica",
        "update entry set amount_micros = amount_micros - 1, balance_after_micros = balance_after_micros - 1 "
        "where adjustment_key = 'k-1'",
        "update entry set balance_after_micros = balance_after_micros - 1 where adjustment_key is null "
        "and account_id = (select account_id from adjustment where idempotency_key = 'k-1')",
        "update adjustment set amount_micros = amount_micros - 1, balance_after_micros = balance_after_micros - 1",
        "update account set balance_micros = balance_micros - 1 where account_id = (select account_id from adjustment)",
    )
    found: dict[tuple[int, int], list[Any]] = {}
    async with transaction(books.pool) as connection:
        async for row in connection.cursor(chain._SEALED, None):
            found.setdefault((row["shard"], row["link_number"]), []).append(row)
    links: dict[int, bytes] = {}
    for (shard, number), rows in found.items():
        lines = [chain._line(row) for row in rows if row["account_id"] is not None]
        previous = links.get(shard, b"")
        links[shard] = link = seal(previous, shard, number, rows[0]["posted_at"], lines)
        await books.as_superuser(
            admin_url,
            "set session_replication_role = replica",
            f"update chain_link set link = '\\x{link.hex()}', previous = '\\x{previous.hex()}' "
            f"where shard = {shard} and link_number = {number}",
            f"update chain_head set link = '\\x{link.hex()}' where shard = {shard}",
        )


async def test_a_chain_that_was_written_anew_is_found_by_what_was_anchored(
    books: Books, postgres_admin_url: str
) -> None:
    await books.credit(ONE, 12, "k-1")
    await books.post(simple(1, {ONE: 1}))
    anchors = await heads_of(books)
    await books.post(simple(2, {ONE: 1}))
    assert await books.audit(anchors=anchors) == []
    await rewrite_chain(books, postgres_admin_url)
    assert await books.audit() == [], "the books agree with themselves"
    [found] = await books.audit(anchors=anchors)
    assert (found.account, found.at_us) == ("shard 1", anchors[0].posted_at_us)
    assert "is not what was anchored" in found.what


async def test_anchors_of_a_time_that_a_restore_took_away_say_so(books: Books, postgres_admin_url: str) -> None:
    await books.credit(ONE, 12, "k-1")
    [anchor] = await heads_of(books)
    lost = Anchor(anchor.shard, anchor.link_number + 1, b"\x01" * 32, anchor.posted_at_us)
    [found] = await books.audit(anchors=[anchor, lost])
    assert found.what == f"link {lost.link_number} is gone"
    await books.as_superuser(
        postgres_admin_url,
        "insert into restore_record (incarnation, noticed, restored_at) values (1, 'its topics', '2027-01-16')",
    )
    [found] = await books.audit(anchors=[anchor, lost])
    assert "restored since then" in found.what


async def test_heads_are_published_as_they_move(books: Books) -> None:
    await books.credit(ONE, 12, "k-1")
    anchoring = Anchoring(books.pool, books.clock, 3600)
    assert (await anchoring.anchor(), await anchoring.anchor()) == (1, 0)
    await books.post(simple(1, {ONE: 1}))
    assert await anchoring.anchor() == 1
    async with books.pool.acquire() as connection:
        rows = await connection.fetch("select value from outbox where topic = $1 order by seq", ANCHORS)
    told = [ChainHead.model_validate_json(row["value"]) for row in rows]
    assert [head.link_number for head in told] == [1, 2]
    assert told[-1].link == (await heads_of(books))[0].link.hex()


@pytest.mark.parametrize("name", sorted(set(TAMPERINGS) - OF_SHARDS))
async def test_the_audit_of_one_account_finds(name: str, books: Books, postgres_admin_url: str) -> None:
    await fill(books)
    accounts = await books.account_ids()
    await books.as_superuser(postgres_admin_url, "set session_replication_role = replica", TAMPERINGS[name])
    found = [item for account_id in accounts for item in await books.audit(account_id)]
    assert found != []
    assert all(item.at_us is not None for item in found)


async def test_the_audit_of_one_account_is_not_troubled_by_another(books: Books, postgres_admin_url: str) -> None:
    await fill(books)
    [one, other] = await books.account_ids()
    tampering = f"update account set balance_micros = balance_micros + 1 where account_id = {one}"
    await books.as_superuser(postgres_admin_url, "set session_replication_role = replica", tampering)
    assert await books.audit(other) == []
    [found] = await books.audit(one)
    assert found.account == f"vn/{ONE}"
