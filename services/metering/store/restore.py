"""SQL of a restore that is being settled."""

from collections.abc import Mapping

import asyncpg

from services.metering.rules.restore import Charged, ChargeKey
from shared.db import Connection

# Restores go one at a time, and no worker starts beside one.
_RESTORE_LOCK = "hashtext('tollkeeper.restore')"


async def try_lock_restore(connection: Connection) -> bool:
    """Take the lock of restores for this connection, if nobody has it."""
    return bool(await connection.fetchval(f"select pg_try_advisory_lock({_RESTORE_LOCK})"))


async def unlock_restore(connection: Connection) -> None:
    await connection.execute(f"select pg_advisory_unlock({_RESTORE_LOCK})")


async def load_published_offsets(connection: Connection, topic: str) -> dict[int, int]:
    """Up to where each partition of a topic is known to hold what this database published."""
    rows = await connection.fetch("select partition, next_offset from published_offset where topic = $1", topic)
    return {row["partition"]: row["next_offset"] for row in rows}


async def save_published_offsets(connection: Connection, topic: str, offsets: Mapping[int, int]) -> None:
    await connection.execute(
        """
        insert into published_offset (topic, partition, next_offset)
        select $1, * from unnest($2::int[], $3::bigint[])
        on conflict (topic, partition) do update set next_offset = excluded.next_offset
        """,
        topic,
        list(offsets),
        list(offsets.values()),
    )


async def mark_published(connection: Connection, heads: Mapping[int, int]) -> None:
    """Nothing of these streams up to these sequence numbers is to be published again."""
    await connection.execute(
        """
        update outbox_cursor c set published_seq = h.seq from unnest($1::int[], $2::bigint[]) h(stream, seq)
        where c.stream = h.stream
        """,
        list(heads),
        list(heads.values()),
    )


async def is_unsettled(connection: Connection) -> bool:
    return bool(await connection.fetchval("select exists (select from restore)"))


async def begin_restore(connection: Connection, batches: int, now_us: int) -> None:
    await connection.execute("insert into restore (batches, begun_at) values ($1, $2)", batches, now_us)


async def end_restore(connection: Connection) -> None:
    await connection.execute("delete from restore_charged")
    await connection.execute("delete from restore")


async def insert_charged(connection: Connection, shard: int, charged: Mapping[ChargeKey, Charged]) -> None:
    await connection.execute(
        """
        insert into restore_charged
        select $1, * from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[],
                                 $8::bigint[], $9::bigint[], $10::bigint[])
        """,
        shard,
        [key.region for key in charged],
        [key.tenant_id for key in charged],
        [key.resource_id for key in charged],
        [key.kind for key in charged],
        [item.sku for item in charged.values()],
        [item.slot_from for item in charged.values()],
        [item.slots for item in charged.values()],
        [item.price_micros for item in charged.values()],
        [item.amount_micros for item in charged.values()],
    )


async def load_charged(connection: Connection, shard: int) -> dict[ChargeKey, Charged]:
    rows = await connection.fetch(
        """
        select region, tenant_id, resource_id, kind, sku, slot_from, slots, price_micros, amount_micros
        from restore_charged where shard = $1
        """,
        shard,
    )
    return dict(map(_charged, rows))


def _charged(row: asyncpg.Record) -> tuple[ChargeKey, Charged]:
    values = tuple(row)
    return ChargeKey(*values[:4]), Charged(*values[4:])
