"""SQL of metering's status: positions, shards, what is left to publish."""

from typing import Any

from shared.clock import format_instant
from shared.db import Connection


async def load_positions(connection: Connection) -> dict[tuple[str, int], int]:
    """The next offset to apply, by topic and partition."""
    rows = await connection.fetch(
        "select topic, partition, max(next_offset) as next_offset from consumer_offset group by 1, 2"
    )
    return {(row["topic"], row["partition"]): row["next_offset"] for row in rows}


async def load_status(connection: Connection) -> dict[str, Any]:
    """Positions by topic and partition, every shard's sequence numbers and `through`, and what is open."""
    positions: dict[str, dict[str, int]] = {}
    for (topic, partition), next_offset in (await load_positions(connection)).items():
        positions.setdefault(topic, {})[str(partition)] = next_offset
    shards = await connection.fetch(
        """
        select s.shard, s.seq, c.published_seq, s.metered_through
        from shard s join outbox_cursor c on c.stream = s.shard order by s.shard
        """
    )
    unpublished = await connection.fetchval(
        "select coalesce(sum(h.seq - c.published_seq), 0) from stream_head h join outbox_cursor c using (stream)"
    )
    halted = await connection.fetchval("select reason from halt where resumed_at is null order by halt_number limit 1")
    dead = await connection.fetchval("select count(*) from dead_letter where replayed_at is null")
    return {
        "halted": halted,
        "positions": positions,
        "through": format_instant(min(row["metered_through"] for row in shards)),
        "shards": [
            {
                "shard": row["shard"],
                "seq": row["seq"],
                "published_seq": row["published_seq"],
                "through": format_instant(row["metered_through"]),
            }
            for row in shards
        ],
        "unpublished": int(unpublished),
        "dead": dead,
    }
