"""Dead letters: records that could not be understood, kept with their bytes until somebody mends and replays them."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from shared.clock import format_instant
from shared.db import Connection
from shared.ids import content_hash
from shared.kafka import Record
from shared.outbox import DEAD_STREAM, JSON_TYPE, Message, append_messages
from shared.topics import DEAD_SUFFIX


@dataclass(frozen=True, slots=True)
class DeadRecord:
    record: Record
    reason: str
    detail: str


async def insert_dead_letters(connection: Connection, dead: Sequence[DeadRecord], now_us: int) -> None:
    """Keep the records with their bytes and say so on the dead topic, without the bytes."""
    if not dead:
        return
    await connection.executemany(
        """
        insert into dead_letter (dead_id, topic, partition, record_offset, reason, detail, key, value, headers, died_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        on conflict (dead_id) do update
        set reason = excluded.reason, detail = excluded.detail, died_at = excluded.died_at, replayed_at = null
        """,
        [_row(item, now_us) for item in dead],
    )
    await append_messages(connection, [_announcement(item, now_us) for item in dead], now_us)


def _row(item: DeadRecord, now_us: int) -> tuple[object, ...]:
    record = item.record
    headers = [[name, None if value is None else value.hex()] for name, value in record.headers]
    return (
        record.dead_id,
        record.topic,
        record.partition,
        record.offset,
        item.reason,
        item.detail[:2000].replace("\x00", "\\0"),
        record.key,
        record.value,
        orjson.dumps(headers).decode().replace("\\u0000", "\\\\0"),
        now_us,
    )


def _announcement(item: DeadRecord, now_us: int) -> Message:
    record = item.record
    body = {
        "dead_id": record.dead_id,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "reason": item.reason,
        "sha256": content_hash(record.value or b"").hex(),
        "died_at": format_instant(now_us),
    }
    return Message(DEAD_STREAM, record.topic + DEAD_SUFFIX, None, orjson.dumps(body), JSON_TYPE)


async def load_dead_letters(connection: Connection, *, limit: int = 1000) -> list[dict[str, object]]:
    """The dead letters that were not replayed, oldest first, without their bytes."""
    rows = await connection.fetch(
        """
        select dead_id, topic, partition, record_offset, reason, detail, died_at, replays,
               coalesce(octet_length(value), 0) as value_bytes
        from dead_letter where replayed_at is null order by died_at, dead_id limit $1
        """,
        limit,
    )
    return [{**dict(row), "died_at": format_instant(row["died_at"])} for row in rows]


async def load_dead_topic(connection: Connection, dead_id: str) -> str | None:
    """The topic of an unreplayed dead letter; None if there is no such one."""
    topic: str | None = await connection.fetchval(
        "select topic from dead_letter where dead_id = $1 and replayed_at is null", dead_id
    )
    return topic


async def lock_dead_letter(connection: Connection, dead_id: str) -> Record | None:
    """The record of an unreplayed dead letter, locked for the transaction; None if there is no such one."""
    row = await connection.fetchrow(
        "select * from dead_letter where dead_id = $1 and replayed_at is null for update", dead_id
    )
    if row is None:
        return None
    incarnation = await connection.fetchval(
        "select topic_id from consumer_offset where topic = $1 and left(replace(topic_id::text, '-', ''), 12) = $2",
        row["topic"],
        dead_id.split("-", 1)[0],
    )
    headers = tuple(
        (name, None if value is None else bytes.fromhex(value)) for name, value in orjson.loads(row["headers"])
    )
    return Record(row["topic"], incarnation, row["partition"], row["record_offset"], row["key"], row["value"], headers)


async def mark_replayed(connection: Connection, dead_id: str, now_us: int) -> None:
    await connection.execute(
        "update dead_letter set replayed_at = $2, replays = replays + 1 where dead_id = $1", dead_id, now_us
    )
