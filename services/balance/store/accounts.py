"""Accounts: who they are, how they stand."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from services.balance.rules.crossing import Standing
from services.balance.wire import WireBatch
from shared.db import Connection
from shared.money import AMOUNT_MICROS_MAX

ACCOUNT_COLUMNS = """
    account_id, shard, region, tenant_id, currency, opened_at, credits, last_posted_at, state, balance_micros,
    burn_micros_per_hour, account_version, negative_since, low_told, low_told_at, held_micros, orders,
    entries
"""


@dataclass(frozen=True, slots=True)
class Account:
    account_id: int
    shard: int
    region: str
    tenant_id: str
    currency: str
    opened_at_us: int
    credits: int
    orders: int
    entries: int
    last_posted_at_us: int
    standing: Standing

    @property
    def name(self) -> str:
        return f"{self.region}/{self.tenant_id}"


@dataclass(frozen=True, slots=True)
class Opening:
    """An account to open."""

    region: str
    tenant_id: str
    shard: int
    currency: str
    opened_at_us: int


async def load_account_ids(
    connection: Connection, accounts: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], tuple[int, int]]:
    """The id and shard of each (region, tenant_id) that has an account."""
    rows = await connection.fetch(
        """
        select a.region, a.tenant_id, a.account_id, a.shard from unnest($1::text[], $2::text[]) k(region, tenant_id)
        join account a using (region, tenant_id)
        """,
        [region for region, _ in accounts],
        [tenant_id for _, tenant_id in accounts],
    )
    return {(row[0], row[1]): (row[2], row[3]) for row in rows}


async def insert_accounts(connection: Connection, openings: Sequence[Opening]) -> list[Account]:
    """Open accounts; answer those that were not there before."""
    rows = await connection.fetch(
        f"""
        insert into account (region, tenant_id, shard, currency, opened_at, last_posted_at)
        select k.*, k.opened_at
        from unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::timestamptz[])
          k(region, tenant_id, shard, currency, opened_at)
        order by region, tenant_id on conflict do nothing returning {ACCOUNT_COLUMNS}
        """,  # noqa: S608 - a constant
        [opening.region for opening in openings],
        [opening.tenant_id for opening in openings],
        [opening.shard for opening in openings],
        [opening.currency for opening in openings],
        [opening.opened_at_us for opening in openings],
    )
    return [read_account(row) for row in rows]


async def lock_account(connection: Connection, region: str, tenant_id: str) -> Account | None:
    row = await connection.fetchrow(
        f"select {ACCOUNT_COLUMNS} from account where region = $1 and tenant_id = $2 for no key update",  # noqa: S608 - a constant
        region,
        tenant_id,
    )
    return None if row is None else read_account(row)


async def lock_account_id(connection: Connection, account_id: int) -> Account:
    row = await connection.fetchrow(
        f"select {ACCOUNT_COLUMNS} from account where account_id = $1 for no key update",  # noqa: S608 - a constant
        account_id,
    )
    assert row is not None, "accounts are never deleted"
    return read_account(row)


async def load_account(connection: Connection, region: str, tenant_id: str) -> Account | None:
    row = await connection.fetchrow(
        f"select {ACCOUNT_COLUMNS} from account where region = $1 and tenant_id = $2",  # noqa: S608 - a constant
        region,
        tenant_id,
    )
    return None if row is None else read_account(row)


async def load_accounts_of(
    connection: Connection, accounts: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Account]:
    """The accounts among (region, tenant_id) that are there; the caller holds their chain heads."""
    rows = await connection.fetch(
        f"""
        select {ACCOUNT_COLUMNS} from unnest($1::text[], $2::text[]) k(region, tenant_id)
        join account a using (region, tenant_id)
        """,  # noqa: S608 - a constant
        [region for region, _ in accounts],
        [tenant_id for _, tenant_id in accounts],
    )
    return {(row["region"], row["tenant_id"]): read_account(row) for row in rows}


async def load_accounts(
    connection: Connection, after_id: int, limit: int, *, balance_at_most_micros: int | None
) -> list[Account]:
    """A page of accounts by id. At or below zero comes from the partial index over states."""
    at_most_zero = balance_at_most_micros is not None and balance_at_most_micros <= 0
    empty = "state in ('opened', 'exhausted', 'negative') and" if at_most_zero else ""
    rows = await connection.fetch(
        f"""
        select {ACCOUNT_COLUMNS} from account
        where {empty} account_id > $1 and ($2::bigint is null or balance_micros <= $2) order by account_id limit $3
        """,  # noqa: S608 - constants
        after_id,
        balance_at_most_micros,
        limit,
    )
    return [read_account(row) for row in rows]


async def find_overflow(connection: Connection, batch: WireBatch) -> str | None:
    """Which account a batch would take beyond what the ledger can hold, or None."""
    found = await load_accounts_of(connection, [(account.region, account.tenant_id) for account in batch.accounts])
    for account in batch.accounts:
        known = found.get((account.region, account.tenant_id))
        balance_micros = known.standing.balance_micros if known is not None else 0
        if abs(balance_micros - sum(total[2] for total in account.totals)) > AMOUNT_MICROS_MAX:
            return f"the balance of {account.region}/{account.tenant_id} would go beyond what the ledger can hold"
    return None


async def save_standings(connection: Connection, standings: Sequence[tuple[int, Standing]]) -> None:
    """Write what rules decided of locked accounts (balance and burn were written by the posting)."""
    await connection.execute(
        """
        update account a set state = s.state, account_version = s.version, negative_since = s.negative_since,
          low_told = s.low_told, low_told_at = s.low_told_at
        from unnest($1::bigint[], $2::text[], $3::bigint[], $4::timestamptz[], $5::bool[], $6::timestamptz[])
          s(account_id, state, version, negative_since, low_told, low_told_at)
        where a.account_id = s.account_id
        """,
        [account_id for account_id, _ in standings],
        [standing.state for _, standing in standings],
        [standing.account_version for _, standing in standings],
        [standing.negative_since_us for _, standing in standings],
        [standing.low_told for _, standing in standings],
        [standing.low_told_at_us for _, standing in standings],
    )


def read_account(row: asyncpg.Record) -> Account:
    return Account(
        account_id=row["account_id"],
        shard=row["shard"],
        region=row["region"],
        tenant_id=row["tenant_id"],
        currency=row["currency"],
        opened_at_us=row["opened_at"],
        credits=row["credits"],
        orders=row["orders"],
        entries=row["entries"],
        last_posted_at_us=row["last_posted_at"],
        standing=Standing(
            state=row["state"],
            balance_micros=row["balance_micros"],
            burn_micros_per_hour=row["burn_micros_per_hour"],
            account_version=row["account_version"],
            negative_since_us=row["negative_since"],
            low_told=row["low_told"],
            low_told_at_us=row["low_told_at"],
            held_micros=row["held_micros"],
        ),
    )
