"""Where consuming, orders and publishing stand."""

from typing import Any

from shared.db import Connection
from shared.set_aside import count_set_aside


async def count_open_items(connection: Connection) -> int:
    return int(await connection.fetchval("select count(*) from queue_item where settled_at is null"))


async def load_status(connection: Connection) -> dict[str, Any]:
    """Counts; `waiting` are payments that balance has not acknowledged yet."""
    positions: dict[str, dict[str, int]] = {}
    for row in await connection.fetch("select topic, partition, next_offset from consumer_offset"):
        positions.setdefault(row["topic"], {})[str(row["partition"])] = row["next_offset"]
    counts = await connection.fetchrow(
        """
        select
          (select count(*) from payment_order where state = 'pending') as pending,
          (select count(*) from payment where credit_micros is not null and credited_at is null) as waiting,
          (select count(*) from queue_item where settled_at is null) as queue,
          (select count(*) from inbox where completed_at is null) as inbox,
          (select count(*) from inbox where completed_at is null and problem is not null) as inbox_problems,
          (select count(*) from early_fact) as early,
          (select count(*) from refund_request where answered_at is null) as refunds_open,
          (select coalesce(sum(h.seq - c.published_seq), 0)::bigint from stream_head h
            join outbox_cursor c using (stream)) as unpublished,
          (select count(*) from dead_letter where replayed_at is null) as dead
        """
    )
    return {"positions": positions, **dict(counts or {}), "set_aside": await count_set_aside(connection)}
