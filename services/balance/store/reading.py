"""SQL of what balance answers: pages of entries, and its status."""

from typing import Any

from shared.clock import format_instant
from shared.db import Connection


async def load_entries(connection: Connection, account_id: int, after_number: int, limit: int) -> list[dict[str, Any]]:
    """A page of an account's entries by number."""
    rows = await connection.fetch(
        """
        select e.entry_number, e.posted_at, e.debit_account, e.credit_account, e.amount_micros, e.balance_after_micros,
               e.class, e.shard, e.seq, e.adjustment_key, e.fact_id, a.reason, a.actor
        from entry e left join adjustment a on a.account_id = e.account_id and a.idempotency_key = e.adjustment_key
        where e.account_id = $1 and e.entry_number > $2 order by e.entry_number limit $3
        """,
        account_id,
        after_number,
        limit,
    )
    return [{**dict(row), "posted_at": format_instant(row["posted_at"])} for row in rows]


async def load_status(connection: Connection) -> dict[str, Any]:
    """Positions by topic and partition, every stream, what waits and what is open."""
    positions: dict[str, dict[str, int]] = {}
    query = "select topic, partition, max(next_offset) as position from consumer_offset group by 1, 2"
    for row in await connection.fetch(query):
        positions.setdefault(row["topic"], {})[str(row["partition"])] = row["position"]
    streams = await connection.fetch("select shard, seq, stopped_reason as stopped from charge_stream order by shard")
    stopped_hours = await connection.fetch(
        "select shard, stopped_reason as reason from hour_head where stopped_at is not null order by shard"
    )
    waiting = await connection.fetchval("select count(*) from charge_waiting")
    unpublished = await connection.fetchval(
        "select coalesce(sum(h.seq - c.published_seq), 0) from stream_head h join outbox_cursor c using (stream)"
    )
    dead = await connection.fetchval("select count(*) from dead_letter where replayed_at is null")
    return {
        "positions": positions,
        "streams": [dict(row) for row in streams],
        "stopped_hours": [dict(row) for row in stopped_hours],
        "waiting": waiting,
        "unpublished": int(unpublished),
        "dead": dead,
    }
