"""A ledger that was set back, on real PostgreSQL: what it consents to, and the versions of its accounts."""

from dataclasses import replace

import httpx
import pytest

from services.balance.api import BalanceApi
from services.balance.store.grants import StoredGrant
from services.balance.store.restores import lost_credit, raise_versions
from services.payment.balance_client import BalanceClient
from shared.clock import HOUR_US, MINUTE_US
from shared.db import transaction
from shared.errors import Refusal, TransientFault
from shared.http import create_api
from shared.restore_records import Lost, Restore, confirm_restores, insert_lost, insert_restore, save_mark
from tests.balance.batches import idle, simple, tenants_of, used
from tests.balance.books import GRACE_US, START_US, Books
from tests.balance.facts import captured
from tests.balance.test_grants import promotion
from tests.conftest import MakeDatabase

DUE_US = START_US + GRACE_US


async def set_back(books: Books, incarnation: int = 1) -> None:
    async with transaction(books.pool) as connection:
        await insert_restore(connection, Restore(incarnation, "a test", books.clock.now_us(), None))
        await save_mark(connection, incarnation, "here")
        await raise_versions(connection, incarnation)


async def confirm(books: Books) -> None:
    async with transaction(books.pool) as connection:
        await confirm_restores(connection, 1, "sre", "looked", books.clock.now_us())


async def test_no_permit_before_it_is_confirmed_and_a_grace_period_has_passed(books: Books) -> None:
    """A permit of before is void too."""
    [tenant] = tenants_of(1, 1)
    await books.post(simple(1, {tenant: 50}))
    books.clock.set(DUE_US)
    permit = await books.permits.grant("vn", tenant, START_US, DUE_US)
    await set_back(books)
    with pytest.raises(Refusal, match="restore-unconfirmed"):
        await books.permits.redeem(permit.permit_id, "ctr-1")
    await confirm(books)
    for asked_us in (DUE_US, DUE_US + GRACE_US - 1):
        books.clock.set(asked_us)
        with pytest.raises(Refusal, match="restored-recently"):
            await books.permits.grant("vn", tenant, START_US, DUE_US)
    books.clock.set(DUE_US + GRACE_US)
    assert (await books.permits.grant("vn", tenant, START_US, DUE_US)).negative_since_us == START_US


async def test_versions_of_known_and_of_new_accounts_are_above_all_that_were_told(books: Books) -> None:
    known, new = tenants_of(1, 2)
    await books.post(simple(1, {known: 50}))
    [before] = await books.rows("select account_version from account")
    await set_back(books)
    await set_back(books, 2)
    await books.post(simple(2, {known: 50, new: 7}))
    rows = await books.rows("select tenant_id, account_version from account")
    versions = {str(tenant_id): int(str(version)) for tenant_id, version in rows}
    assert versions[known] == (2 << 40) + int(str(before[0]))
    assert 2 << 40 < versions[new] < (2 << 40) + 10


async def lose(books: Books, *granted: StoredGrant) -> None:
    """Set the ledger back to before these were given, and keep what was told of them."""
    await set_back(books)
    lost = [
        Lost(
            "credit",
            lost_credit("vn", "acme", grant.kind, grant.grant_id),
            *("vn", "acme", grant.granted_at_us),
            {"credit_kind": grant.kind, "credit_id": grant.grant_id, "amount_micros": grant.amount_micros},
        )
        for grant in granted
    ]
    async with transaction(books.pool) as connection:
        await insert_lost(connection, 1, lost)


async def test_a_lost_grant_is_given_again_as_it_was_though_it_is_over(
    books: Books, make_database: MakeDatabase
) -> None:
    """What was used since it was first given burns it, as before the restore; the rest expires."""
    end_us = START_US + HOUR_US
    again = await Books.open(*await make_database("balance"))
    for ledger in (books, again):
        await ledger.pay(captured("stripe:pi_1", 1000))
        await ledger.post(used(1, "acme", 5, START_US))
    soon, late = promotion("soon", ends_us=end_us), promotion("late", ends_us=end_us + HOUR_US, amount=50)
    books.clock.set(START_US + MINUTE_US)
    given = [await books.grants.give("vn", "acme", request) for request in (soon, late)]
    used_since = [used(2, "acme", 40, START_US + MINUTE_US), used(3, "acme", 30, end_us)]
    await books.post(*used_since)
    again.clock.set(START_US + 3 * HOUR_US)
    await again.post(*used_since, idle(4, "acme", START_US + 3 * HOUR_US))
    with pytest.raises(Refusal, match="grant-expired"):
        await again.grants.give("vn", "acme", soon)
    await lose(again, *given)
    with pytest.raises(Refusal, match="grant-expired"):
        await again.grants.give("vn", "acme", replace(soon, amount_micros=101))
    assert await again.grants.give("vn", "acme", late) == replace(given[1], account_id=1)
    assert await again.grants.give("vn", "acme", soon) == replace(given[0], account_id=1)
    assert await again.grants.give("vn", "acme", soon) == replace(given[0], account_id=1)
    books.clock.set(START_US + 3 * HOUR_US)
    await books.post(idle(4, "acme", START_US + 3 * HOUR_US))
    for ledger in (books, again):
        await ledger.grants.keep()
        # Forty of `soon`, thirty of `late`; only the minute before they were given is of bought credit.
        assert await ledger.balance("acme") == 1000 - 5
        expired = await ledger.rows("select amount_micros from entry where class = 'expiry' order by 1")
        assert expired == [(20,), (60,)]
        assert await ledger.audit() == []
    await again.close()


async def test_no_card_is_charged_for_a_balance_that_may_lack_credits(books: Books) -> None:
    [tenant] = tenants_of(1, 1)
    await books.post(simple(1, {tenant: 50}))
    api = create_api("test", readiness=dict)
    api.include_router(BalanceApi(books.pool, books.clock, books.accounts, books.permits).router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://balance") as http:
        client = BalanceClient(http)
        assert await client.find_balance("vn", tenant) == -50
        await set_back(books)
        with pytest.raises(TransientFault, match="set back"):
            await client.find_balance("vn", tenant)
        await confirm(books)
        assert await client.find_balance("vn", tenant) == -50
