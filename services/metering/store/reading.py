"""SQL of how far the input topics are applied."""

import uuid
from collections.abc import Collection

from shared.db import Connection

Positions = dict[tuple[uuid.UUID, int], int]


async def load_positions(connection: Connection, topic_ids: Collection[uuid.UUID]) -> Positions:
    """The next offset to apply, by topic id and partition."""
    rows = await connection.fetch(
        "select topic_id, partition, next_offset from consumer_offset where topic_id = any($1::uuid[])", list(topic_ids)
    )
    return {(row["topic_id"], row["partition"]): row["next_offset"] for row in rows}


async def load_read_until(connection: Connection) -> int:
    """The latest instant of which everything that the topics held then is applied."""
    return int(await connection.fetchval("select read_until from read_mark"))


async def move_read_until(connection: Connection, read_until_us: int, now_us: int) -> int:
    """Move the mark forward; return where it is. One that lies ahead of now was set by a wrong clock: it moves back."""
    return int(
        await connection.fetchval(
            """
            update read_mark
            set read_until = case when read_until > $2 then $1 else greatest(read_until, $1) end
            returning read_until
            """,
            read_until_us,
            now_us,
        )
    )
