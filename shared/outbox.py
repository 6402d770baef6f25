"""The outbox: messages are rows of the transaction that decides them, and a relay publishes them in order.

A stream is a shard's (or service's) contiguous sequence of messages. Its head row is locked by whoever appends, so
sequence numbers commit in order and a relay that reads past its cursor misses nothing. The cursor moves only after
the broker's acknowledgement: a crash in between sends again, and consumers drop what they know.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import asyncpg
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from shared.clock import DAY_US, Clock
from shared.db import Connection, Pool, day_of, drop_partitions, ensure_partitions, is_transient
from shared.errors import TransientFault
from shared.log import get_logger

logger = get_logger(__name__)

# Streams that no shard can have: dead letters, and what a service says of itself.
DEAD_STREAM = -1
SERVICE_STREAM = -3
STREAM_HEADER, SEQ_HEADER = "stream", "seq"
JSON_TYPE = "application/json"
CLOUDEVENT_TYPE = "application/cloudevents+json"
KEPT_DAYS = 7


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream; the topic's partition is `stream mod partitions`."""

    stream: int
    topic: str
    key: bytes | None
    value: bytes
    content_type: str = CLOUDEVENT_TYPE


async def insert_messages(connection: Connection, rows: Sequence[tuple[int, Message]], now_us: int) -> None:
    """Append messages with the sequence numbers that the caller took while holding their streams' head rows."""
    if not rows:
        return
    day = day_of(now_us)
    await connection.execute(
        """
        insert into outbox (day, stream, seq, topic, key, value, content_type)
        select $1, * from unnest($2::int[], $3::bigint[], $4::text[], $5::bytea[], $6::bytea[], $7::text[])
        """,
        day,
        [message.stream for _, message in rows],
        [seq for seq, _ in rows],
        [message.topic for _, message in rows],
        [message.key for _, message in rows],
        [message.value for _, message in rows],
        [message.content_type for _, message in rows],
    )


async def append_messages(connection: Connection, messages: Iterable[Message], now_us: int) -> None:
    """Append messages in the order given per stream, taking their streams' heads in ascending order."""
    counts: dict[int, int] = {}
    rows: list[tuple[int, Message]] = []
    for message in messages:
        counts[message.stream] = counts.get(message.stream, 0) + 1
        rows.append((counts[message.stream], message))
    if not rows:
        return
    streams = sorted(counts)
    await connection.execute(
        """
        with cursor_row as (insert into outbox_cursor (stream) select unnest($1::int[]) on conflict do nothing),
        head as (
          insert into outbox_head (stream, seq)
          select * from unnest($1::int[], $2::bigint[]) h(stream, count) order by stream
          on conflict (stream) do update set seq = outbox_head.seq + excluded.seq returning stream, seq
        )
        insert into outbox (day, stream, seq, topic, key, value, content_type)
        select $3, m.stream, head.seq - c.count + m.number, m.topic, m.key, m.value, m.content_type
        from unnest($4::int[], $5::bigint[], $6::text[], $7::bytea[], $8::bytea[], $9::text[])
          m(stream, number, topic, key, value, content_type)
        join head using (stream) join unnest($1::int[], $2::bigint[]) c(stream, count) using (stream)
        """,
        streams,
        [counts[stream] for stream in streams],
        day_of(now_us),
        [message.stream for _, message in rows],
        [number for number, _ in rows],
        [message.topic for _, message in rows],
        [message.key for _, message in rows],
        [message.value for _, message in rows],
        [message.content_type for _, message in rows],
    )


class Relay:
    """Publishes the streams with `stream mod relays == relay`, under an advisory lock, in order.

    `topic_prefix` is the deployment's; `partitions` the number of partitions of each topic, kept in the database.
    Where messages come one by one, `linger_seconds` between batches let several go at once.
    """

    def __init__(
        self,
        pool: Pool,
        producer: AIOKafkaProducer,
        clock: Clock,
        *,
        topic_prefix: str,
        partitions: dict[str, int],
        relay: int = 0,
        relays: int = 1,
        batch_messages_max: int = 1000,
        batch_bytes_max: int = 24 * 1024 * 1024,
        idle_seconds: float = 0.05,
        linger_seconds: float = 0.0,
    ) -> None:
        self._pool = pool
        self._producer = producer
        self._clock = clock
        self._prefix = topic_prefix
        self._partitions = partitions
        self._relay = relay
        self._relays = relays
        self._batch_messages_max = batch_messages_max
        self._batch_bytes_max = batch_bytes_max
        self._idle_seconds = idle_seconds
        self._linger_seconds = linger_seconds
        self._woken = asyncio.Event()
        self._housekept_day: object = None

    def wake(self) -> None:
        """Hint that something was appended; the relay polls anyway."""
        self._woken.set()

    async def run(self) -> None:
        """Publish until cancelled. Raises on a fault of the database or broker; the supervisor starts it again."""
        async with self._pool.acquire(timeout=30) as connection:
            while not await connection.fetchval(
                "select pg_try_advisory_lock(hashtext('tollkeeper.relay'), $1)", self._relay
            ):
                await asyncio.sleep(1)
            try:
                while True:
                    await self._housekeep(connection)
                    if not await self.publish_batch(connection):
                        await self._wait()
                    elif self._linger_seconds:
                        await asyncio.sleep(self._linger_seconds)
            finally:
                await self._unlock(connection)

    async def _unlock(self, connection: Connection) -> None:
        try:
            await connection.execute("select pg_advisory_unlock(hashtext('tollkeeper.relay'), $1)", self._relay)
        except Exception as error:
            # A session that is gone holds no lock.
            if not is_transient(error):
                raise

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), self._idle_seconds)
        self._woken.clear()

    async def _housekeep(self, connection: Connection) -> None:
        now_us = self._clock.now_us()
        if self._housekept_day == day_of(now_us):
            return
        await ensure_partitions(connection, "outbox", now_us)
        dropped = await drop_partitions(connection, "outbox", now_us - KEPT_DAYS * DAY_US)
        if dropped:
            logger.info("outbox.partitions_dropped", partitions=dropped)
        self._housekept_day = day_of(now_us)

    async def publish_batch(self, connection: Connection) -> int:
        """Send what is past the cursors and move them; answer how many messages were sent."""
        rows = await self._load_unpublished(connection)
        if not rows:
            return 0
        offsets = await self._send(rows)
        await self._mark(connection, rows, offsets)
        return len(rows)

    async def _load_unpublished(self, connection: Connection) -> list[asyncpg.Record]:
        rows = await connection.fetch(
            """
            select m.* from outbox_cursor c join stream_head h using (stream)
            cross join lateral (
              select o.stream, o.seq, o.topic, o.key, o.value, o.content_type from outbox o
              where o.stream = c.stream and o.seq > c.published_seq order by o.seq limit $3
            ) m
            where c.published_seq < h.seq and mod(c.stream + $2, $2) = $1
            order by m.stream, m.seq limit $3
            """,
            self._relay,
            self._relays,
            self._batch_messages_max,
        )
        size = 0
        for number, row in enumerate(rows):
            size += len(row["value"])
            if size > self._batch_bytes_max and number:
                return rows[:number]
        return rows

    async def _send(self, rows: Sequence[asyncpg.Record]) -> dict[tuple[str, int], int]:
        """Hand every message to the producer in order and wait for every acknowledgement.

        Answers the offset after the last message by topic, without its prefix, and partition.
        """
        try:
            futures = []
            for row in rows:
                topic = row["topic"]
                futures.append(
                    await self._producer.send(
                        self._prefix + topic,
                        value=row["value"],
                        key=row["key"],
                        partition=row["stream"] % self._partitions[topic],
                        headers=[
                            ("content-type", row["content_type"].encode()),
                            # A database that was set back finds by these what it had published and lost.
                            (STREAM_HEADER, str(row["stream"]).encode()),
                            (SEQ_HEADER, str(row["seq"]).encode()),
                        ],
                    )
                )
            sent = await asyncio.gather(*futures)
        except KafkaError as error:
            raise TransientFault(f"the broker did not take the outbox: {error!r}") from error
        offsets: dict[tuple[str, int], int] = {}
        for row, at in zip(rows, sent, strict=True):
            key = row["topic"], at.partition
            offsets[key] = max(offsets.get(key, 0), at.offset + 1)
        return offsets

    async def _mark(
        self, connection: Connection, rows: Sequence[asyncpg.Record], offsets: dict[tuple[str, int], int]
    ) -> None:
        last: dict[int, int] = {row["stream"]: row["seq"] for row in rows}
        await connection.execute(
            """
            update outbox_cursor c set published_seq = m.seq
            from unnest($1::int[], $2::bigint[]) m(stream, seq) where c.stream = m.stream
            """,
            list(last),
            list(last.values()),
        )
        await connection.execute(
            """
            insert into published_offset (topic, partition, next_offset)
            select * from unnest($1::text[], $2::int[], $3::bigint[])
            on conflict (topic, partition) do update set next_offset = excluded.next_offset
            """,
            [topic for topic, _ in sorted(offsets)],
            [partition for _, partition in sorted(offsets)],
            [offsets[key] for key in sorted(offsets)],
        )


async def resend(connection: Connection, stream: int, from_seq: int) -> int:
    """Move a stream's cursor back so that everything from `from_seq` is sent again; answer how many messages."""
    row = await connection.fetchrow(
        """
        update outbox_cursor c set published_seq = least(published_seq, $2 - 1)
        from stream_head h where c.stream = $1 and h.stream = c.stream
        returning h.seq - c.published_seq as messages
        """,
        stream,
        from_seq,
    )
    return 0 if row is None else int(row["messages"])


async def keep_topic_layout(connection: Connection, partitions: dict[str, int]) -> dict[str, int]:
    """Remember each topic's number of partitions at first sight and answer the remembered ones.

    Messages of a stream stay in one partition for ever; a topic that was widened later keeps its first layout.
    """
    await connection.execute(
        "insert into topic_layout select * from unnest($1::text[], $2::int[]) on conflict do nothing",
        list(partitions),
        list(partitions.values()),
    )
    rows = await connection.fetch("select topic, partitions from topic_layout")
    return {row["topic"]: row["partitions"] for row in rows}
