"""Deletion permits and their redemptions, both append-only."""

from dataclasses import dataclass

from services.balance.rules.permits import Permit
from shared.db import Connection


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
