"""The queue: what did not match, until an operator settles it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from services.payment.rules.decision import Queued
from shared.db import Connection
from shared.ids import fact_id

Resolution = Literal["credit", "refund", "dismiss", "refunded"]

_COLUMNS = """
    item_id, item_number, kind, payment_id, order_id, amount_micros, detail, opened_at, settled_at, resolution,
    credited_micros, actor, reason
"""


@dataclass(frozen=True, slots=True)
class QueueItem:
    item_id: str
    item_number: int
    kind: str
    payment_id: str | None
    order_id: str | None
    amount_micros: int | None
    detail: str
    opened_at_us: int
    settled_at_us: int | None
    resolution: Resolution | None
    credited_micros: int | None
    actor: str | None
    reason: str | None


async def insert_items(connection: Connection, items: Sequence[Queued], order_id: str | None, now_us: int) -> None:
    """Queue items; what is queued again is the same item, also after it was settled."""
    for item in items:
        await connection.execute(
            """
            insert into queue_item (item_id, kind, subject, payment_id, order_id, amount_micros, detail, opened_at)
            values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing
            """,
            fact_id("queue", item.kind, item.subject),
            item.kind,
            item.subject,
            item.payment_id,
            order_id,
            item.amount_micros,
            item.detail,
            now_us,
        )


async def load_item(connection: Connection, item_id: str) -> QueueItem | None:
    row = await connection.fetchrow(f"select {_COLUMNS} from queue_item where item_id = $1", item_id)  # noqa: S608 - constants
    return None if row is None else QueueItem(*row)


async def has_open_items(connection: Connection, order_id: str) -> bool:
    """Whether an operator has still to decide about money that came for an order."""
    return bool(
        await connection.fetchval(
            "select exists (select from queue_item where order_id = $1 and settled_at is null)", order_id
        )
    )


async def lock_item(connection: Connection, item_id: str) -> QueueItem | None:
    row = await connection.fetchrow(f"select {_COLUMNS} from queue_item where item_id = $1 for update", item_id)  # noqa: S608 - constants
    return None if row is None else QueueItem(*row)


async def load_items(connection: Connection, after: int, limit: int, *, settled: bool) -> list[QueueItem]:
    """A page of items in the order of their arrival: the open ones, or the settled ones."""
    rows = await connection.fetch(
        f"""
        select {_COLUMNS} from queue_item where item_number > $1 and (settled_at is not null) = $3
        order by item_number limit $2
        """,  # noqa: S608 - constants
        after,
        limit,
        settled,
    )
    return [QueueItem(*row) for row in rows]


async def settle_item(
    connection: Connection,
    item_id: str,
    resolution: Resolution,
    credited_micros: int | None,
    actor: str,
    reason: str,
    now_us: int,
) -> None:
    await connection.execute(
        """
        update queue_item set settled_at = $2, resolution = $3, credited_micros = $4, actor = $5, reason = $6
        where item_id = $1 and settled_at is null
        """,
        item_id,
        now_us,
        resolution,
        credited_micros,
        actor,
        reason,
    )


async def settle_refunded(connection: Connection, payment_id: str, cause: str, now_us: int) -> None:
    """Settle what waits because of a payment that the provider has sent back whole."""
    await connection.execute(
        """
        update queue_item set settled_at = $2, resolution = 'refunded', actor = 'provider', reason = $3
        where payment_id = $1 and settled_at is null
          and kind in ('mismatch', 'duplicate', 'unknown-order', 'refund-failed')
        """,
        payment_id,
        now_us,
        cause,
    )


async def settle_credited(
    connection: Connection, payment_id: str, credited_micros: int, reason: str, now_us: int
) -> None:
    """Settle what waits because of a payment that was credited by an operator whose word was lost."""
    await connection.execute(
        """
        update queue_item set settled_at = $4, resolution = 'credit', credited_micros = $2, actor = 'restore',
          reason = $3
        where payment_id = $1 and settled_at is null and kind in ('mismatch', 'duplicate', 'unknown-order')
        """,
        payment_id,
        credited_micros,
        reason,
        now_us,
    )
