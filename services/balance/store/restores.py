"""SQL of a restore of balance's database."""

from collections.abc import Sequence

from services.balance.rules.crossing import Movement
from services.balance.store.accounts import ACCOUNT_COLUMNS, Account, read_account
from shared.db import Connection

VERSION_BITS = 40


async def raise_versions(connection: Connection, incarnation: int) -> None:
    """Raise every account's version above all that an earlier incarnation ever told."""
    await connection.execute(
        f"""
        update account set account_version = ($1::bigint << {VERSION_BITS})
          + (account_version & ((1::bigint << {VERSION_BITS}) - 1))
        """,  # noqa: S608 - a constant
        incarnation,
    )


async def add_restated(connection: Connection, account_ids: Sequence[int]) -> None:
    """Remember accounts that are to be told as they stand once the restore is settled."""
    await connection.execute(
        "insert into restated_account select unnest($1::bigint[]) order by 1 on conflict do nothing",
        sorted(set(account_ids)),
    )


async def load_restated(connection: Connection, after_id: int, limit: int) -> list[Account]:
    """A page of those accounts by id."""
    rows = await connection.fetch(
        f"""
        select {ACCOUNT_COLUMNS} from restated_account join account using (account_id)
        where account_id > $1 order by account_id limit $2
        """,  # noqa: S608 - a constant
        after_id,
        limit,
    )
    return [read_account(row) for row in rows]


async def delete_restated(connection: Connection) -> None:
    await connection.execute("delete from restated_account")


async def load_payment_credits(
    connection: Connection, account_ids: Sequence[int], since_us: int
) -> dict[int, list[Movement]]:
    """The payments that were credited to accounts since an instant."""
    rows = await connection.fetch(
        """
        select account_id, amount_micros, payment_id from posted_fact
        where account_id = any($1::bigint[]) and posted_at >= $2 and fact_id like 'captured/%' and amount_micros > 0
        order by account_id, posted_at, fact_id
        """,
        list(account_ids),
        since_us,
    )
    found: dict[int, list[Movement]] = {}
    for row in rows:
        credit = Movement(row["amount_micros"], row["payment_id"], "payment")
        found.setdefault(row["account_id"], []).append(credit)
    return found


async def load_lost_credit(
    connection: Connection, region: str, tenant_id: str, kind: str, credit_id: str
) -> tuple[int, int] | None:
    """When a credit that a restore lost was told, and its amount; None: no restore lost it."""
    row = await connection.fetchrow(
        """
        select told_at, (detail ->> 'amount_micros')::bigint as amount from restore_lost
        where incarnation in (select incarnation from restore_record) and kind = 'credit' and item = $1
        order by incarnation desc limit 1
        """,
        lost_credit(region, tenant_id, kind, credit_id),
    )
    return None if row is None else (row["told_at"], row["amount"])


def lost_credit(region: str, tenant_id: str, kind: str, credit_id: str) -> str:
    """The item under which a lost credit is kept."""
    return f"{region}/{tenant_id}/{kind}/{credit_id}"


async def load_known_adjustments(connection: Connection, keys: Sequence[tuple[str, str, str]]) -> set[tuple[str, ...]]:
    """Which of (region, tenant, idempotency key) there are as adjustments or grants."""
    rows = await connection.fetch(
        """
        select k.* from unnest($1::text[], $2::text[], $3::text[]) k(region, tenant_id, key)
        join account a using (region, tenant_id)
        where exists (select from adjustment d where d.account_id = a.account_id and d.idempotency_key = k.key)
          or exists (
            select from promotional_grant g
            where g.account_id = a.account_id and k.key in (g.grant_id, g.idempotency_key)
          )
        """,
        *(list(column) for column in zip(*keys, strict=True)),
    )
    return {tuple(row) for row in rows}
