"""Orders that payment announced: pending until their payment is captured or finally refused."""

from dataclasses import dataclass
from typing import Any

from services.balance.rules.permits import PendingOrder
from shared.clock import format_instant
from shared.db import Connection


@dataclass(frozen=True, slots=True)
class Order:
    order_id: str
    account_id: int
    provider: str
    credit_micros: int
    registered_at_us: int
    expires_at_us: int
    attempted: bool
    ended_at_us: int | None


_COLUMNS = "order_id, account_id, provider, credit_micros, registered_at, expires_at, attempted, ended_at"


async def load_order(connection: Connection, order_id: str) -> Order | None:
    row = await connection.fetchrow(
        f"select {_COLUMNS} from pending_order where order_id = $1",  # noqa: S608 - a constant
        order_id,
    )
    return None if row is None else Order(*row)


async def insert_order(connection: Connection, order: Order) -> None:
    await connection.execute(
        f"insert into pending_order ({_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, $8)",  # noqa: S608 - a constant
        order.order_id,
        order.account_id,
        order.provider,
        order.credit_micros,
        order.registered_at_us,
        order.expires_at_us,
        order.attempted,
        order.ended_at_us,
    )


async def mark_attempted(connection: Connection, order_id: str) -> None:
    await connection.execute("update pending_order set attempted = true where order_id = $1", order_id)


async def count_registration(connection: Connection, account_id: int) -> None:
    """Void the account's live permits; the caller holds the account."""
    await connection.execute("update account set orders = orders + 1 where account_id = $1", account_id)


async def end_orders(connection: Connection, ended: dict[str, str], now_us: int) -> None:
    """End orders by the facts that ended them; one that ended before stays as it was."""
    await connection.execute(
        """
        update pending_order o set ended_at = $3, ended_by = e.fact_id
        from unnest($1::text[], $2::text[]) e(order_id, fact_id)
        where o.order_id = e.order_id and o.ended_at is null
        """,
        list(ended),
        list(ended.values()),
        now_us,
    )


async def load_pending_orders(connection: Connection, account_id: int) -> list[PendingOrder]:
    rows = await connection.fetch(
        "select order_id, attempted from pending_order where account_id = $1 and ended_at is null order by order_id",
        account_id,
    )
    return [PendingOrder(*row) for row in rows]


async def list_pending_orders(connection: Connection, after: str, limit: int) -> list[dict[str, Any]]:
    """A page of all pending orders by id."""
    rows = await connection.fetch(
        """
        select o.order_id, a.region, a.tenant_id, o.provider, o.credit_micros, o.registered_at, o.attempted
        from pending_order o join account a using (account_id)
        where o.ended_at is null and o.order_id > $1 order by o.order_id limit $2
        """,
        after,
        limit,
    )
    return [{**dict(row), "registered_at": format_instant(row["registered_at"])} for row in rows]
