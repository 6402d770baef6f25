"""The outbox: messages are rows of the transaction that decides them, and a relay publishes them in order.

A stream is a shard's (or service's) contiguous sequence of messages. Its head row is locked by whoever appends, so
sequence numbers commit in order and a relay that reads past its cursor misses nothing. The cursor moves only after
the broker's acknowledgement: a crash in between sends again, and consumers drop what they know.

A relay looks for messages once a second. In between it is woken: by the commit of an append in its own process, and by
NOTIFY from the others, whose stand-by relays pass their hints on. A hint that is lost costs a second.
"""

import asyncio
import contextlib
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from prometheus_client import Gauge

from shared.clock import DAY_US, Clock, ClockTrust
from shared.db import (
    Connection,
    Pool,
    bound_session,
    call_after_commit,
    day_of,
    drop_partitions,
    ensure_partitions,
    is_transient,
    unbound_session,
)
from shared.errors import Corruption, TransientFault
from shared.kafka import RenewableProducer
from shared.log import get_logger
from shared.reach import Reach
from shared.set_aside import release, set_aside
from shared.topics import MESSAGE_BYTES_MAX

logger = get_logger(__name__)

# Streams that no shard can have: dead letters, what a service says of itself, and the ledger's anchors.
DEAD_STREAM = -1
SERVICE_STREAM = -3
ANCHOR_STREAM = -5
STREAM_HEADER, SEQ_HEADER = "stream", "seq"
JSON_TYPE = "application/json"
CLOUDEVENT_TYPE = "application/cloudevents+json"
KEPT_DAYS = 7
_CHANNEL: Final = "tollkeeper_outbox"
_STAND_BY_SECONDS = 1.0
# Often enough that no time-out of the server ends the session of a relay that waits for the broker.
_PULSE_SECONDS = 2.0
# A message's headers and its frame have room beside it.
VALUE_BYTES_MAX = MESSAGE_BYTES_MAX - 64 * 1024
# The kind of streams that stand at a message which can't be sent, and how long before they are tried again.
STANDING_KIND = "outbox"
STANDING_SECONDS = 30.0

OLDEST_UNPUBLISHED = Gauge(
    "tollkeeper_outbox_oldest_unpublished_seconds", "How long the stream that stands longest has not moved"
)


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
    _check_sizes(message for _, message in rows)
    call_after_commit(connection, wake_relays)
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
    _check_sizes(message for _, message in rows)
    call_after_commit(connection, wake_relays)
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


def _check_sizes(messages: Iterable[Message]) -> None:
    """Raise Corruption for what no broker would take: its stream would stand there for ever."""
    for message in messages:
        if len(message.value) + len(message.key or b"") > VALUE_BYTES_MAX:
            raise Corruption(f"a message of {len(message.value)} bytes for {message.topic} can't be published")


# The offset after the last message, by topic and partition.
_Offsets = dict[tuple[str, int], int]
_relays: "weakref.WeakSet[Relay]" = weakref.WeakSet()


def wake_relays() -> None:
    """Hint to every relay of this process that something was appended."""
    for relay in list(_relays):
        relay.wake()


class Relay:
    """Publishes the streams with `stream mod relays == relay`, under an advisory lock, in order.

    `topic_prefix` is the deployment's; `partitions` the number of partitions of each topic, kept in the database.
    Where messages come one by one, `linger_seconds` between batches let several go at once. Old partitions are dropped
    only while `may_destroy` says that the clock is to be trusted.
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
        idle_seconds: float = 1.0,
        linger_seconds: float = 0.0,
        may_destroy: Callable[[], Awaitable[bool]] | None = None,
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
        self._may_destroy = may_destroy
        self._trust = ClockTrust(clock)
        self._woken = asyncio.Event()
        self._ensured_day: object = None
        self._dropped_day: object = None
        self._progress = _Progress()
        self._producer_failed = False
        # Streams that stand at a message which can't be sent, with the item that says so, until they are tried again.
        self._standing: dict[int, str] = {}
        self._try_again_at = 0.0
        # Both are what the whole service stands on.
        self.reach = Reach({"database": self._ask_database, "broker": self._ask_broker})
        _relays.add(self)

    def wake(self) -> None:
        """Hint that something was appended; the relay polls anyway."""
        self._woken.set()

    async def _ask_database(self) -> None:
        async with self._pool.acquire(timeout=30) as connection:
            await connection.fetchval("select 1", timeout=30)

    async def _ask_broker(self) -> None:
        await self._producer.client.fetch_all_metadata()

    async def run(self) -> None:
        """Publish until cancelled. Raises on a fault of the database or broker; the supervisor starts it again."""
        async with self._pool.acquire(timeout=30) as connection:
            await bound_session(connection)
            try:
                await self._stand_by(connection)
                await self._renew_producer()
                await connection.add_listener(_CHANNEL, self._hear)
                while True:
                    await self._housekeep(connection)
                    await self._progress.measure(connection)
                    if not await self.publish_batch(connection):
                        await self._wait(self._idle_seconds)
                    elif self._linger_seconds:
                        await asyncio.sleep(self._linger_seconds)
            finally:
                await self._leave(connection)

    async def _stand_by(self, connection: Connection) -> None:
        """Return once this relay holds the lock. Until then pass on to the holder what this process appended."""
        while not await connection.fetchval(
            "select pg_try_advisory_lock(hashtext('tollkeeper.relay'), $1)", self._relay
        ):
            await self._progress.measure(connection)
            deadline = time.monotonic() + _STAND_BY_SECONDS
            while (seconds := deadline - time.monotonic()) > 0:
                if await self._wait(seconds):
                    await connection.execute("select pg_notify($1, '')", _CHANNEL)

    async def _renew_producer(self) -> None:
        """Begin with a new producer after one that failed: it may never send again."""
        if not self._producer_failed:
            return
        if isinstance(self._producer, RenewableProducer):
            try:
                await self._producer.renew()
            except KafkaError as error:
                raise TransientFault(f"the broker is out of reach: {error!r}") from error
        self._producer_failed = False

    async def _leave(self, connection: Connection) -> None:
        try:
            await connection.execute("select pg_advisory_unlock(hashtext('tollkeeper.relay'), $1)", self._relay)
            await connection.remove_listener(_CHANNEL, self._hear)
            await unbound_session(connection)
        except Exception as error:
            # A session that is gone holds no lock, and one of which nobody knows may hold it.
            with contextlib.suppress(asyncpg.InterfaceError):
                # One that was lost has left the pool already; what ended it is to be told, and not this.
                connection.terminate()
            if not is_transient(error):
                raise

    def _hear(self, *_: object) -> None:
        self._woken.set()

    async def _wait(self, seconds: float) -> bool:
        """Wait for a hint; whether one came."""
        # Not `wait_for`, which may swallow a cancellation that comes together with a hint.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        woken = self._woken.is_set()
        self._woken.clear()
        return woken

    async def _housekeep(self, connection: Connection) -> None:
        now_us = self._clock.now_us()
        today = day_of(now_us)
        is_trusted = self._trust.look()
        if self._ensured_day != today:
            await ensure_partitions(connection, "outbox", now_us)
            self._ensured_day = today
        if self._dropped_day == today:
            return
        self._dropped_day = today
        if not is_trusted or (self._may_destroy is not None and not await self._may_destroy()):
            logger.warning("outbox.partitions_kept", reason="the clock is not trusted")
            return
        dropped = await drop_partitions(connection, "outbox", now_us - KEPT_DAYS * DAY_US, keep_days=KEPT_DAYS)
        if dropped:
            logger.info("outbox.partitions_dropped", partitions=dropped)

    async def publish_batch(self, connection: Connection) -> int:
        """Send what is past the cursors and move them; answer how many messages were sent or found to be unsendable.

        A stream stands at a message that can't be sent, for what follows it must not come before it; others go on.
        """
        loaded = await self._load_unpublished(connection)
        faults = self._find_faults(loaded)
        await self._note_standing(connection, loaded, faults)
        rows = [row for row in loaded if row["stream"] not in faults or row["seq"] < faults[row["stream"]].seq]
        if rows:
            offsets = await self._keep_alive(connection, self._send(rows))
            await self._mark(connection, rows, offsets)
        return len(rows) + len(faults)

    def _find_faults(self, rows: Sequence[asyncpg.Record]) -> dict[int, "_Unsendable"]:
        """The first message of each stream that no broker will ever take."""
        faults: dict[int, _Unsendable] = {}
        for row in rows:
            reason = None
            if row["topic"] not in self._partitions:
                reason = f"there is no topic {row['topic'][:100]}"
            elif len(row["value"]) + len(row["key"] or b"") > VALUE_BYTES_MAX:
                reason = f"its {len(row['value'])} bytes are more than a message may have"
            if reason is not None:
                faults.setdefault(row["stream"], _Unsendable(row["seq"], reason))
        return faults

    async def _note_standing(
        self, connection: Connection, rows: Sequence[asyncpg.Record], faults: Mapping[int, "_Unsendable"]
    ) -> None:
        moving = {row["stream"] for row in rows} - faults.keys()
        await release(
            connection, STANDING_KIND, [self._standing.pop(each) for each in moving if each in self._standing]
        )
        for stream, fault in faults.items():
            self._standing[stream] = item = f"{stream}/{fault.seq}"
            self._try_again_at = time.monotonic() + STANDING_SECONDS
            await set_aside(connection, STANDING_KIND, item, fault.reason, self._clock.now_us())

    async def _keep_alive(self, connection: Connection, sending: Awaitable[_Offsets]) -> _Offsets:
        """Await what is sent; the session shows meanwhile that its process lives."""
        task = asyncio.ensure_future(sending)
        try:
            while not (await asyncio.wait({task}, timeout=_PULSE_SECONDS))[0]:
                await self._progress.measure(connection, at_once=True)
            return task.result()
        finally:
            task.cancel()

    async def _load_unpublished(self, connection: Connection) -> list[asyncpg.Record]:
        standing = list(self._standing) if time.monotonic() < self._try_again_at else []
        rows = await connection.fetch(
            """
            select m.* from outbox_cursor c join stream_head h using (stream)
            cross join lateral (
              select o.stream, o.seq, o.topic, o.key, o.value, o.content_type from outbox o
              where o.stream = c.stream and o.seq > c.published_seq order by o.seq limit $3
            ) m
            where c.published_seq < h.seq and mod(c.stream + $2, $2) = $1 and not c.stream = any($4::int[])
            order by m.stream, m.seq limit $3
            """,
            self._relay,
            self._relays,
            self._batch_messages_max,
            standing,
        )
        size = 0
        for number, row in enumerate(rows):
            size += len(row["value"])
            if size > self._batch_bytes_max and number:
                return rows[:number]
        return rows

    async def _send(self, rows: Sequence[asyncpg.Record]) -> _Offsets:
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
            self._producer_failed = True
            raise TransientFault(f"the broker did not take the outbox: {error!r}") from error
        offsets: _Offsets = {}
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


@dataclass(frozen=True, slots=True)
class _Unsendable:
    seq: int
    reason: str


class _Progress:
    """Shows how long the stream that stands longest has not moved: by any worker, whoever holds the lock."""

    def __init__(self) -> None:
        self._since: dict[int, tuple[int, float]] = {}
        self._next = 0.0

    async def measure(self, connection: Connection, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if now < self._next and not at_once:
            return
        self._next = now + 5
        rows = await connection.fetch(
            """
            select c.stream, c.published_seq from outbox_cursor c join stream_head h using (stream)
            where c.published_seq < h.seq
            """
        )
        known, self._since = self._since, {}
        for stream, published_seq in rows:
            before = known.get(stream)
            stands = before is not None and before[0] == published_seq
            self._since[stream] = before if before is not None and stands else (published_seq, now)
        OLDEST_UNPUBLISHED.set(max((now - since for _, since in self._since.values()), default=0.0))


async def resend(connection: Connection, stream: int, from_seq: int) -> int:
    """Move a stream's cursor back so that what is kept from `from_seq` on is sent again; return how many messages.

    Messages whose partition was dropped are gone: the cursor goes back no further than to what is there.
    """
    row = await connection.fetchrow(
        "select min(seq) as first, count(*) as messages from outbox where stream = $1 and seq >= $2", stream, from_seq
    )
    assert row is not None
    if row["first"] is not None:
        await connection.execute(
            "update outbox_cursor set published_seq = least(published_seq, $2 - 1) where stream = $1",
            stream,
            row["first"],
        )
        call_after_commit(connection, wake_relays)
    return int(row["messages"])


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
