"""Whatever a superuser changes in the books, the audit finds it."""

import pytest

from shared.clock import HOUR_US
from shared.ids import content_hash
from tests.balance.batches import simple, tenants_of
from tests.balance.books import START_US, Books
from tests.balance.facts import captured
from tests.balance.test_grants import promotion
from tests.balance.test_hours import close_all

[ONE, OTHER] = tenants_of(1, 2)
MOVED = simple(2, {ONE: 20, OTHER: 10})
FORGED = f"update evidence set value = '\\x{MOVED.hex()}', sha256 = '\\x{content_hash(MOVED).hex()}' where seq = 2"

TAMPERINGS = {
    "evidence of another account": FORGED,
    "a byte of evidence": "update evidence set value = value || '\\x00' where seq = 2",
    "evidence deleted": "delete from evidence where seq = 3",
    "an adjustment's amount": "update adjustment set amount_micros = amount_micros + 1",
    "an adjustment's reason": "update adjustment set reason = 'another'",
    "an adjustment's actor": "update adjustment set actor = 'another'",
    "an adjustment deleted": "delete from adjustment",
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


@pytest.mark.parametrize("name", TAMPERINGS)
async def test_the_audit_finds(name: str, books: Books, postgres_admin_url: str) -> None:
    await books.credit(ONE, 12, "k-1")
    await books.grants.give("vn", OTHER, promotion(amount=4))
    await books.pay(captured("p-1", 3, tenant=OTHER))
    await books.post(simple(1, {ONE: 1, OTHER: 2}), simple(2, {ONE: 10, OTHER: 20}))
    books.clock.set(START_US + HOUR_US)
    await close_all(books)
    await books.post(simple(3, {ONE: 5}))
    assert await books.audit() == []
    await books.as_superuser(postgres_admin_url, "set session_replication_role = replica", TAMPERINGS[name])
    assert await books.audit() != []
