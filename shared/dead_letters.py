"""Dead letters: records that could not be understood, kept with their bytes until somebody mends and replays them."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg
import orjson

from shared.clock import format_instant
from shared.db import Connection
from shared.errors import Refusal
from shared.ids import content_hash
from shared.kafka import Record
from shared.outbox import DEAD_STREAM, JSON_TYPE, Message, append_messages
from shared.topics import DEAD_SUFFIX

# Larger ones are listed without a look inside.
READ_BYTES_MAX: Final = 16 * 1024


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
        set reason = excluded.reason, detail = excluded.detail, died_at = excluded.died_at, replayed_at = null,
            closed_by = null, close_reason = null
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


async def load_dead_letters(
    connection: Connection,
    *,
    after: str | None = None,
    limit: int = 1000,
    topic: str | None = None,
    reason: str | None = None,
) -> list[dict[str, object]]:
    """Open dead letters, oldest first, without their bytes, after the one with the id `after`.

    `reason` is a part of the reason or its detail. What event it was is told where it can be read. Raises Refusal for
    an `after` that is no dead letter.
    """
    query = "select exists (select from dead_letter where dead_id = $1)"
    if after is not None and not await connection.fetchval(query, after):
        raise Refusal("invalid-cursor", "`after` is the `next` of the page before", status=422)
    rows = await connection.fetch(
        """
        select dead_id, topic, partition, record_offset, reason, detail, died_at, replays, headers,
               coalesce(octet_length(value), 0) as value_bytes,
               case when octet_length(value) <= $5 then value end as value
        from dead_letter
        where replayed_at is null
          and ($1::text is null
               or (died_at, dead_id) > (select died_at, dead_id from dead_letter where dead_id = $1))
          and ($3::text is null or topic = $3)
          and ($4::text is null or position(lower($4) in lower(reason || ': ' || detail)) > 0)
        order by died_at, dead_id limit $2
        """,
        after,
        limit,
        topic,
        reason,
        READ_BYTES_MAX,
    )
    return [_summary(row) for row in rows]


async def load_dead_letter(connection: Connection, dead_id: str) -> dict[str, object] | None:
    """One dead letter, open or ended, with its bytes: `text` where they are UTF-8, else `base64`."""
    row = await connection.fetchrow(
        "select *, coalesce(octet_length(value), 0) as value_bytes from dead_letter where dead_id = $1", dead_id
    )
    if row is None:
        return None
    ended = None if row["replayed_at"] is None else format_instant(row["replayed_at"])
    headers = orjson.loads(row["headers"])
    return {
        **_summary(row),
        "ended_at": ended,
        "closed_by": row["closed_by"],
        "close_reason": row["close_reason"],
        "key": _readable(row["key"]),
        "headers": [[name, None if value is None else _readable(bytes.fromhex(value))] for name, value in headers],
        "value": _readable(row["value"]),
    }


async def close_dead_letter(connection: Connection, dead_id: str, actor: str, reason: str, now_us: int) -> bool:
    """End an open dead letter that nobody will mend; whether there was one."""
    found = await connection.fetchval(
        """
        update dead_letter set replayed_at = $2, closed_by = $3, close_reason = $4
        where dead_id = $1 and replayed_at is null returning dead_id
        """,
        dead_id,
        now_us,
        actor,
        reason,
    )
    return found is not None


def _summary(row: asyncpg.Record) -> dict[str, object]:
    names = ("dead_id", "topic", "partition", "record_offset", "reason", "detail", "replays", "value_bytes")
    return {
        **{name: row[name] for name in names},
        "died_at": format_instant(row["died_at"]),
        **_identify(row["value"], orjson.loads(row["headers"])),
    }


def _readable(data: bytes | None) -> dict[str, str] | None:
    if data is None:
        return None
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _identify(value: bytes | None, headers: list[list[str | None]]) -> dict[str, str | None]:
    """Which event a record was meant to be, as far as it can be read: a CloudEvent, structured or binary."""
    found: dict[str, object] = {}
    try:
        body = orjson.loads(value or b"null")
    except orjson.JSONDecodeError:
        body = None
    for name, written in headers:
        if name is not None and written is not None and name.lower().startswith("ce_"):
            found[name.lower()[3:]] = bytes.fromhex(written).decode(errors="replace")
    data = body
    if isinstance(body, dict) and not found:
        found, data = body, body.get("data")
    tenant = data.get("tenant_id") if isinstance(data, dict) else None
    told = {"source": found.get("source"), "id": found.get("id"), "subject": found.get("subject"), "tenant_id": tenant}
    return {name: value if isinstance(value, str) else None for name, value in told.items()}


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
