"""Payment History: an account's orders, newest first, each with what was paid for it and what went back."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from shared.db import Connection


@dataclass(slots=True)
class HistoryPayment:
    row: asyncpg.Record
    refunds: list[asyncpg.Record] = field(default_factory=list)
    disputes: list[asyncpg.Record] = field(default_factory=list)


@dataclass(slots=True)
class HistoryEntry:
    """An order with its payments; `order` is None for a payment that an operator credited without one."""

    number: int
    order: asyncpg.Record | None
    payments: list[HistoryPayment] = field(default_factory=list)


async def load_history(
    connection: Connection, region: str, tenant_id: str, before: int, limit: int
) -> list[HistoryEntry]:
    """A page of entries with numbers below `before`, in four set-based queries."""
    keys = await connection.fetch(
        """
        (select order_number as number, order_id, null as payment_id from payment_order
          where region = $1 and tenant_id = $2 and order_number < $3 order by order_number desc limit $4)
        union all
        (select payment_number, null, payment_id from payment
          where region = $1 and tenant_id = $2 and order_id is null and payment_number < $3
          order by payment_number desc limit $4)
        order by number desc limit $4
        """,
        region,
        tenant_id,
        before,
        limit,
    )
    order_ids = [key["order_id"] for key in keys if key["order_id"]]
    orders = await connection.fetch("select * from payment_order where order_id = any($1::text[])", order_ids)
    payments = await connection.fetch(
        """
        select p.*, r.number as receipt from payment p left join receipt r using (payment_id)
        where p.order_id = any($1::text[]) or p.payment_id = any($2::text[]) order by p.payment_number
        """,
        order_ids,
        [key["payment_id"] for key in keys if key["payment_id"]],
    )
    by_order = {row["order_id"]: row for row in orders}
    found = await _load_reversals(connection, payments)
    entries = []
    for key in keys:
        own = [
            item
            for item in found
            if item.row["payment_id"] == key["payment_id"]
            or (key["order_id"] is not None and item.row["order_id"] == key["order_id"])
        ]
        entries.append(HistoryEntry(key["number"], by_order.get(key["order_id"]), own))
    return entries


async def _load_reversals(connection: Connection, payments: Sequence[asyncpg.Record]) -> list[HistoryPayment]:
    found = {row["payment_id"]: HistoryPayment(row) for row in payments}
    for row in await connection.fetch(
        "select * from refund where payment_id = any($1::text[]) order by at, refund_id", list(found)
    ):
        found[row["payment_id"]].refunds.append(row)
    for row in await connection.fetch(
        "select * from dispute where payment_id = any($1::text[]) order by at, dispute_id", list(found)
    ):
        found[row["payment_id"]].disputes.append(row)
    return list(found.values())
