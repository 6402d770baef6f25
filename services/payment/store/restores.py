"""SQL of restores: of balance's ledger, and of this database."""

from collections.abc import Sequence

from services.payment.store.orders import ORDER_COLUMNS, StoredOrder
from shared.db import Connection

# A suspension is told under its number. Numbers of a lost future are passed over.
SUSPENSIONS_PER_INCARNATION = 1_000_000


async def mark_open_orders(connection: Connection) -> int:
    """Have every order that may still be paid registered again; answer how many there are."""
    status = await connection.execute(
        "update payment_order set register_again = true where state in ('pending', 'mismatched')"
    )
    return int(status.split()[-1])


async def load_orders_to_register(connection: Connection, kind: str, now_us: int, limit: int) -> list[str]:
    """Orders to register again, without those that are set aside under `kind`."""
    rows = await connection.fetch(
        """
        select order_id from payment_order o where register_again
          and not exists (select from set_aside s where (s.kind, s.item) = ($1, o.order_id) and still_held(s, $2))
        order by order_id limit $3
        """,
        kind,
        now_us,
        limit,
    )
    return [row["order_id"] for row in rows]


async def lock_order_to_register(connection: Connection, order_id: str) -> StoredOrder | None:
    """The order, locked: what is decided of it meanwhile waits. None if it is registered, or somebody else has it."""
    row = await connection.fetchrow(
        f"""
        select {", ".join(ORDER_COLUMNS)} from payment_order o where register_again and order_id = $1
        for update of o skip locked
        """,  # noqa: S608 - constants
        order_id,
    )
    return None if row is None else StoredOrder(*row)


async def mark_registered(connection: Connection, order_id: str) -> None:
    await connection.execute("update payment_order set register_again = false where order_id = $1", order_id)


async def find_unknown_orders(connection: Connection, order_ids: Sequence[str]) -> set[str]:
    rows = await connection.fetch(
        """
        select id from unnest($1::text[]) id where not exists (select from payment_order o where o.order_id = id)
        """,
        list(order_ids),
    )
    return {row["id"] for row in rows}


async def find_unknown_payments(connection: Connection, payment_ids: Sequence[str]) -> set[str]:
    rows = await connection.fetch(
        "select id from unnest($1::text[]) id where not exists (select from payment p where p.payment_id = id)",
        list(payment_ids),
    )
    return {row["id"] for row in rows}


async def suspend_agreements(connection: Connection, incarnation: int, now_us: int) -> list[tuple[str, str, int]]:
    """Suspend every automatic top-up; answer region, tenant and number of each suspension."""
    rows = await connection.fetch(
        """
        update auto_top_up set suspended_reason = 'restored', changed_at = $2, suspensions = suspensions + $1
        where enabled and suspended_reason is null returning region, tenant_id, suspensions
        """,
        incarnation * SUSPENSIONS_PER_INCARNATION + 1,
        now_us,
    )
    return [(row["region"], row["tenant_id"], row["suspensions"]) for row in rows]


async def load_incarnation(connection: Connection) -> int:
    """The incarnation that the last restore of this database began; 0 before the first."""
    return int(await connection.fetchval("select coalesce(max(incarnation), 0) from restore_record"))


async def may_lack_refunds(connection: Connection, payment_id: str) -> bool:
    """Whether a restore may have lost refunds of a payment: it was paid before the database was set back."""
    return bool(
        await connection.fetchval(
            """
            select exists (select from restore_record r, payment p
              where p.payment_id = $1 and least(p.paid_at, p.captured_at) <= r.restored_at)
            """,
            payment_id,
        )
    )


async def find_told_failure(connection: Connection, order_id: str) -> str | None:
    """Why an order that a restore lost had failed; None where that was not told."""
    found: str | None = await connection.fetchval(
        """
        select l.detail ->> 'reason' from restore_record r
        join restore_lost l on (l.incarnation, l.kind, l.item) = (r.incarnation, 'order', $1)
        where l.detail ->> 'type' = 'payment.failed' order by r.incarnation desc limit 1
        """,
        order_id,
    )
    return found
