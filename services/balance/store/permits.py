"""Deletion permits and their redemptions, both append-only."""

from dataclasses import dataclass

from services.balance.rules.permits import Permit
from shared.db import Connection, day_of


async def load_last_permit(
    connection: Connection, account_id: int, negative_since_us: int
) -> tuple[int, Permit | None]:
    """The number of permits granted for a debt so far, and the last one."""
    row = await connection.fetchrow(
        """
        select number, permit_id, account_id, negative_since, credits, orders, expires_at from deletion_permit
        where account_id = $1 and negative_since = $2 order by number desc limit 1
        """,
        account_id,
        negative_since_us,
    )
    if row is None:
        return 0, None
    number, *rest = row
    return number, Permit(*rest)


async def load_last_due(connection: Connection, account_id: int, negative_since_us: int) -> int | None:
    """From where the last permit of a debt counts; None without one."""
    due_us: int | None = await connection.fetchval(
        "select due_at from deletion_permit where account_id = $1 and negative_since = $2 order by number desc limit 1",
        account_id,
        negative_since_us,
    )
    return due_us


async def insert_permit(
    connection: Connection, permit: Permit, number: int, due_at_us: int, granted_at_us: int
) -> None:
    await connection.execute(
        """
        insert into deletion_permit
          (permit_id, account_id, number, negative_since, credits, orders, due_at, granted_at, expires_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        """,
        permit.permit_id,
        permit.account_id,
        number,
        permit.negative_since_us,
        permit.credits,
        permit.orders,
        due_at_us,
        granted_at_us,
        permit.expires_at_us,
    )


@dataclass(frozen=True, slots=True)
class OwnUse:
    """What refunds, disputes and operators took up to now; the highest balance without all that since an instant."""

    reversed_micros: int
    highest_micros: int


async def load_own_use(connection: Connection, account_id: int, since_us: int) -> OwnUse:
    """Read what tells an account's own use from what was taken from it; the caller holds the account.

    A refund that failed and a dispute that was won give back what they took. An operator's credit gives back no debit:
    nothing says which one it is for. Of entries of one instant each counts with all that was taken up to then.
    """
    row = await connection.fetchrow(
        """
        with moved as (
          select split_part(fact_id, '/', 1) as kind, amount_micros, posted_at from posted_fact where account_id = $1
          union all
          select 'debited', amount_micros, posted_at from adjustment where account_id = $1 and amount_micros < 0
        ), taken as (
          select posted_at,
            greatest(0, -coalesce(sum(amount_micros) filter (where kind in ('refunded', 'refund_failed')) over w, 0))
            + greatest(0, -coalesce(sum(amount_micros) filter (where kind in ('disputed', 'dispute_closed')) over w, 0))
            - coalesce(sum(amount_micros) filter (where kind = 'debited') over w, 0) as micros
          from moved window w as (order by posted_at range between unbounded preceding and current row)
        ), balances as (
          (select $2::timestamptz as at, balance_after_micros from entry
            where account_id = $1 and day <= $3 and posted_at <= $2 order by entry_number desc limit 1)
          union all
          select posted_at, balance_after_micros from entry where account_id = $1 and day >= $3 and posted_at > $2
        )
        select
          coalesce((select micros from taken order by posted_at desc limit 1), 0)::bigint,
          coalesce(max(b.balance_after_micros + coalesce(
            (select micros from taken t where t.posted_at <= b.at order by t.posted_at desc limit 1), 0)), 0)::bigint
        from balances b
        """,
        account_id,
        since_us,
        day_of(since_us),
    )
    assert row is not None
    return OwnUse(*row)


async def load_permit(connection: Connection, permit_id: str) -> Permit | None:
    row = await connection.fetchrow(
        "select permit_id, account_id, negative_since, credits, orders, expires_at from deletion_permit"
        " where permit_id = $1",
        permit_id,
    )
    return None if row is None else Permit(*row)


@dataclass(frozen=True, slots=True)
class Redemption:
    permit_id: str
    resource_id: str
    redeemed_at_us: int


async def load_redemption(connection: Connection, permit_id: str, resource_id: str) -> Redemption | None:
    row = await connection.fetchrow(
        "select permit_id, resource_id, redeemed_at from permit_redemption where permit_id = $1 and resource_id = $2",
        permit_id,
        resource_id,
    )
    return None if row is None else Redemption(*row)


async def insert_redemption(connection: Connection, redemption: Redemption) -> None:
    await connection.execute(
        "insert into permit_redemption (permit_id, resource_id, redeemed_at) values ($1, $2, $3)",
        redemption.permit_id,
        redemption.resource_id,
        redemption.redeemed_at_us,
    )
