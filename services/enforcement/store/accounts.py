"""SQL of accounts: the rows that every decision locks."""

from collections.abc import Iterable, Sequence

import asyncpg

from services.enforcement.rules.account import Account, AccountKey
from shared.db import Connection


async def lock_accounts(connection: Connection, keys: Iterable[AccountKey]) -> dict[AccountKey, Account]:
    """Lock the accounts' rows in ascending order, making those that are seen for the first time."""
    wanted = sorted(set(keys))
    regions, tenants = _columns(wanted)
    rows = await _lock(connection, regions, tenants)
    if len(rows) < len(wanted):
        await connection.execute(
            """
            insert into enforced_account (region, tenant_id)
            select * from unnest($1::text[], $2::text[]) k(region, tenant_id) order by 1, 2 on conflict do nothing
            """,
            regions,
            tenants,
        )
        rows = await _lock(connection, regions, tenants)
    return {account.key: account for account in map(_account, rows)}


async def _lock(connection: Connection, regions: Sequence[str], tenants: Sequence[str]) -> list[asyncpg.Record]:
    return await connection.fetch(
        """
        select a.* from enforced_account a
        join unnest($1::text[], $2::text[]) k(region, tenant_id) using (region, tenant_id)
        order by a.region collate "C", a.tenant_id collate "C" for update of a
        """,
        regions,
        tenants,
    )


async def load_versions(connection: Connection, keys: Sequence[AccountKey]) -> dict[AccountKey, int]:
    """The known version of each account that has been seen, without a lock."""
    regions, tenants = _columns(keys)
    rows = await connection.fetch(
        """
        select region, tenant_id, account_version from enforced_account
        join unnest($1::text[], $2::text[]) k(region, tenant_id) using (region, tenant_id)
        """,
        regions,
        tenants,
    )
    return {AccountKey(row["region"], row["tenant_id"]): row["account_version"] for row in rows}


async def set_back_version(connection: Connection, key: AccountKey, version: int) -> None:
    """Forget that newer versions of an account were seen."""
    await connection.execute(
        """
        update enforced_account set account_version = least(account_version, $3)
        where region = $1 and tenant_id = $2
        """,
        *key,
        version,
    )


async def load_accounts_to_ask(connection: Connection) -> list[AccountKey]:
    """The accounts that are believed at or below zero, or have an open deletion case."""
    rows = await connection.fetch(
        """
        select region, tenant_id from enforced_account where state in ('exhausted', 'negative')
        union select region, tenant_id from deletion_case where state not in ('cancelled', 'done')
        """
    )
    return [AccountKey(row["region"], row["tenant_id"]) for row in rows]


async def load_exhausted(connection: Connection, before_us: int) -> list[AccountKey]:
    """The accounts at or below zero of which nothing new was learnt since an instant."""
    rows = await connection.fetch(
        """
        select region, tenant_id from enforced_account where state in ('exhausted', 'negative') and learned_at <= $1
        order by region, tenant_id
        """,
        before_us,
    )
    return [AccountKey(row["region"], row["tenant_id"]) for row in rows]


async def save_accounts(connection: Connection, accounts: Sequence[Account], now_us: int) -> None:
    if not accounts:
        return
    await connection.execute(
        """
        update enforced_account a set account_version = k.version, state = k.state, balance_micros = k.balance_micros,
          negative_since = k.negative_since, learned_at = $7
        from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::timestamptz[])
          k(region, tenant_id, version, state, balance_micros, negative_since)
        where (a.region, a.tenant_id) = (k.region, k.tenant_id)
        """,
        *_columns([account.key for account in accounts]),
        [account.version for account in accounts],
        [account.state for account in accounts],
        [account.balance_micros for account in accounts],
        [account.negative_since_us for account in accounts],
        now_us,
    )


def _columns(keys: Sequence[AccountKey]) -> tuple[list[str], list[str]]:
    return [key.region for key in keys], [key.tenant_id for key in keys]


def _account(row: asyncpg.Record) -> Account:
    return Account(
        AccountKey(row["region"], row["tenant_id"]),
        row["account_version"],
        row["state"],
        row["balance_micros"],
        row["negative_since"],
    )
