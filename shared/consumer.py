"""A Kafka consumer whose offsets live in PostgreSQL, in the transaction that holds their effect.

Kafka's group only assigns partitions. Two workers that both believe to own one are harmless: the offset's row is
locked, and what it says is done is dropped. A restored database replays from where it was.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from asyncpg import UniqueViolationError
from prometheus_client import Gauge

from shared.clock import Clock
from shared.db import Connection, Pool, is_transient, transaction
from shared.dead_letters import DeadRecord, insert_dead_letters, lock_dead_letter, mark_replayed
from shared.errors import RecordError, Refusal, TollkeeperError, TransientFault
from shared.kafka import Record, describe_topics, describe_with
from shared.lenient_records import install_lenient_records
from shared.log import get_logger
from shared.set_aside import describe_error

logger = get_logger(__name__)

RACES_MAX = 5

RETRYING = Gauge(
    "tollkeeper_consumer_retrying_seconds", "For how long the same records have been retried; 0: none are", ["group"]
)
# When the retries in hand began, by group.
_retrying_since: dict[str, dict[int, float]] = {}
# How long a partition that was added to a topic may go unread.
METADATA_AGE_SECONDS = 4
# How soon it is noticed that a topic was deleted and made anew.
TOPICS_SECONDS = 5.0
_LOAD_POSITIONS_SECONDS = 5

# (topic without prefix, topic id, partition)
Place = tuple[str, uuid.UUID, int]


@dataclass(slots=True)
class Poll:
    """Records to apply in one transaction, and what the consumer does for them with it.

    `bury` a record that can't be understood; `after_commit` callbacks run only once the transaction is in.
    """

    records: Sequence[Record]
    dead: list[DeadRecord] = field(default_factory=list)
    callbacks: list[Callable[[], None]] = field(default_factory=list)

    def bury(self, record: Record, reason: str, detail: str) -> None:
        self.dead.append(DeadRecord(record, reason, detail))

    def after_commit(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)


Apply = Callable[[Connection, Poll], Awaitable[None]]


@dataclass(slots=True)
class _Handed:
    """What a lane gets of a poll: records, and where partitions stand whose position is past their last record."""

    records: list[Record] = field(default_factory=list)
    positions: dict[Place, int] = field(default_factory=dict)


class OffsetConsumer:
    """Polls `topics` and applies each poll in one transaction that also moves the offsets.

    With several `lanes` a poll is split by partition, each lane with transactions of its own: while the database works
    for one, this process works for another. A partition always has the same lane, so its records stay in order.

    Where records come one by one, `linger_seconds` between polls let several be applied together.

    Only what a committed transaction holds is read. The stored position is the next offset to read: transaction markers
    and compacted tails, which bring no record, move it too.

    An error of the data bisects a poll until one record is alone; that one is applied once more on a fresh connection
    and then goes to the dead letters; so does one that meets a Corruption: its line stops, its neighbours' go on. A
    transient fault retries the same poll with backoff; a fault of the broker's stops the consumer.
    """

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        apply: Apply,
        *,
        bootstrap: str,
        topic_prefix: str,
        topics: Sequence[str],
        group: str,
        records_max: int = 500,
        lanes: int = 1,
        wait_ms: int = 500,
        linger_seconds: float = 0.0,
        stall_seconds: float = 60,
    ) -> None:
        self._pool = pool
        self.clock = clock
        self._apply = apply
        self._bootstrap = bootstrap
        self._prefix = topic_prefix
        self.topics = tuple(topics)
        self._group = topic_prefix + group
        self._records_max = records_max
        self._lanes = lanes
        self._wait_ms = wait_ms
        self._linger_seconds = linger_seconds
        self._stall_seconds = stall_seconds
        self._topic_ids: dict[str, uuid.UUID] = {}
        # Up to where each assigned partition was handed to its lane, or is stored.
        self._handed: dict[TopicPartition, int] = {}
        self.assigned = asyncio.Event()

    async def run(self) -> None:
        """Consume until cancelled. Raises on faults of the broker; the supervisor decides."""
        described = await describe_topics(self._bootstrap, [self._prefix + topic for topic in self.topics])
        missing = [topic for topic in self.topics if self._prefix + topic not in described]
        if missing:
            raise TransientFault(f"topics do not exist yet: {missing}")
        self._topic_ids = {topic: described[self._prefix + topic].topic_id for topic in self.topics}
        install_lenient_records()
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=self._group,
            client_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            metadata_max_age_ms=METADATA_AGE_SECONDS * 1000,
            # How long the broker, and a poll, wait where there is nothing: whatever comes ends both at once.
            fetch_max_wait_ms=1_000,
            max_partition_fetch_bytes=4 * 1024 * 1024,
            fetch_max_bytes=32 * 1024 * 1024,
            max_poll_interval_ms=600_000,
            # A frozen worker's partitions go to others within ten seconds.
            session_timeout_ms=8_000,
            heartbeat_interval_ms=2_000,
        )
        try:
            await consumer.start()
            wanted = [
                TopicPartition(name, number) for name, item in described.items() for number in range(item.partitions)
            ]
            listener = _Seeker(consumer, await self._load_positions(consumer, wanted), self)
            consumer.subscribe([self._prefix + topic for topic in self.topics], listener=listener)
            await self._consume(consumer)
        finally:
            self.assigned.clear()
            await consumer.stop()

    async def _consume(self, consumer: AIOKafkaConsumer) -> None:
        queues = [asyncio.Queue[_Handed](maxsize=1) for _ in range(self._lanes)]
        try:
            async with asyncio.TaskGroup() as tasks:
                for number, queue in enumerate(queues):
                    tasks.create_task(self._apply_lane(queue), name=f"consumer lane {number}")
                tasks.create_task(self._watch_topics(consumer), name="consumer topics")
                await self._fetch(consumer, queues)
        except BaseExceptionGroup as faults:
            # What stops one lane stops them all; the first cause tells what to do about it.
            # Not from the group: an error whose cause holds the error itself is a circle.
            raise faults.exceptions[0] from None

    async def _fetch(self, consumer: AIOKafkaConsumer, queues: Sequence[asyncio.Queue[_Handed]]) -> None:
        """Hand each lane its part of every poll; one that is full is waited for."""
        moved_at = time.monotonic()
        while True:
            found = await consumer.getmany(timeout_ms=self._wait_ms, max_records=self._records_max)
            for queue, handed in zip(queues, self._split(found, _positions_of(consumer)), strict=True):
                if handed.records or handed.positions:
                    await queue.put(handed)
            if found:
                moved_at = time.monotonic()
                await asyncio.sleep(self._linger_seconds)
            elif time.monotonic() - moved_at > self._stall_seconds:
                await self._check_progress(consumer)
                moved_at = time.monotonic()

    def _split(self, found: dict[TopicPartition, list[Any]], positions: dict[TopicPartition, int]) -> Sequence[_Handed]:
        """A poll by lanes. `positions` are the consumer's right after the poll, stored after its records."""
        lanes = [_Handed() for _ in range(self._lanes)]
        for partition, batch in found.items():
            lanes[partition.partition % self._lanes].records += [self._record(item) for item in batch]
            self._handed[partition] = batch[-1].offset + 1
        for partition, position in positions.items():
            if position > self._handed.get(partition, 0):
                topic = partition.topic.removeprefix(self._prefix)
                place = topic, self._topic_ids[topic], partition.partition
                lanes[partition.partition % self._lanes].positions[place] = position
                self._handed[partition] = position
        return lanes

    async def _apply_lane(self, queue: asyncio.Queue[_Handed]) -> None:
        while True:
            handed = await queue.get()
            if handed.records:
                await self._apply_until_done(handed.records)
            if handed.positions:
                await self._retry_transient(lambda: self._advance(handed.positions))  # noqa: B023 - awaited here

    async def _watch_topics(self, consumer: AIOKafkaConsumer) -> None:
        """Raise TransientFault once a topic was made anew: it holds other records at the offsets read from now on."""
        names = [self._prefix + topic for topic in self.topics]
        while True:
            await asyncio.sleep(TOPICS_SECONDS)
            try:
                described = await describe_with(consumer._client, names)  # noqa: SLF001 - a connection that is there
            except (KafkaError, TimeoutError, OSError):
                # The broker is away; whoever fetches says so.
                continue
            for topic in self.topics:
                found = described.get(self._prefix + topic)
                if found is not None and found.topic_id != self._topic_ids[topic]:
                    raise TransientFault(f"{topic} was made anew; starting again at its first record")

    async def _check_progress(self, consumer: AIOKafkaConsumer) -> None:
        """A consumer that receives nothing although there is something must be started again (aiokafka issue 1037)."""
        assignment = consumer.assignment()
        ends = await consumer.end_offsets(list(assignment)) if assignment else {}
        for partition, end in ends.items():
            if await consumer.position(partition) < end:
                raise TransientFault(f"{partition} receives nothing although it has records; starting again")

    def _record(self, item: Any) -> Record:  # noqa: ANN401 - aiokafka is untyped
        topic = item.topic.removeprefix(self._prefix)
        return Record(
            topic, self._topic_ids[topic], item.partition, item.offset, item.key, item.value, tuple(item.headers)
        )

    async def _apply_until_done(self, records: Sequence[Record]) -> None:
        """Apply the records, or bury those that break it: bisected, and seen twice on different connections."""
        backoff = _Backoff(self._group)
        try:
            await self._try_until_done(records, backoff)
        finally:
            backoff.end()

    async def _try_until_done(self, records: Sequence[Record], backoff: "_Backoff") -> None:
        races, suspect = 0, False
        while True:
            try:
                await self._apply_once(records)
            except KafkaError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever one record breaks must not stop its neighbours
                races += isinstance(error, UniqueViolationError)
                if is_transient(error) and races <= RACES_MAX:
                    logger.warning("consumer.retry", group=self._group, records=len(records), error=repr(error)[:500])
                    await backoff.pause()
                elif len(records) > 1:
                    await self._halve(records)
                    return
                elif suspect:
                    await self._bury(records[0], error)
                    return
                else:
                    # What the last user left behind on a connection is not this record's fault.
                    suspect = True
                    await self._pool.expire_connections()
            else:
                return

    async def _halve(self, records: Sequence[Record]) -> None:
        middle = len(records) // 2
        await self._apply_until_done(records[:middle])
        await self._apply_until_done(records[middle:])

    async def _bury(self, record: Record, error: Exception) -> None:
        logger.error("consumer.record_isolated", record=record.dead_id, exc_info=error)
        detail = f"{error.reason}: {error.detail}" if isinstance(error, RecordError) else repr(error)

        async def bury() -> None:
            async with transaction(self._pool) as connection:
                fresh = await self._lock_offsets(connection, [record])
                dead = [DeadRecord(item, "unexpected error", detail) for item in fresh]
                await insert_dead_letters(connection, dead, self.clock.now_us())
                await self._move_offsets(connection, [record])

        await self._retry_transient(bury)

    async def _retry_transient(self, action: Callable[[], Awaitable[None]]) -> None:
        backoff = _Backoff(self._group)
        try:
            while True:
                try:
                    await action()
                except Exception as error:
                    if not is_transient(error):
                        raise
                    logger.warning("consumer.retry", group=self._group, records=0, error=repr(error)[:500])
                    await backoff.pause()
                else:
                    return
        finally:
            backoff.end()

    async def _apply_once(self, records: Sequence[Record]) -> None:
        poll = Poll(())
        async with transaction(self._pool) as connection:
            fresh = await self._lock_offsets(connection, records)
            poll.records = fresh
            if fresh:
                await self._apply(connection, poll)
                await insert_dead_letters(connection, poll.dead, self.clock.now_us())
                await self._move_offsets(connection, fresh)
        for callback in poll.callbacks:
            callback()

    async def _lock_offsets(self, connection: Connection, records: Sequence[Record]) -> list[Record]:
        """Lock the positions of the records' partitions, ascending; answer the records that are not done yet."""
        keys = sorted({(record.topic, record.topic_id, record.partition) for record in records})
        columns = [key[0] for key in keys], [key[1] for key in keys], [key[2] for key in keys]
        rows = await connection.fetch(
            """
            select o.topic, o.partition, o.next_offset from consumer_offset o
            join unnest($1::text[], $2::uuid[], $3::int[]) k(topic, topic_id, partition)
              using (topic, topic_id, partition)
            order by o.topic, o.topic_id, o.partition for update of o
            """,
            *columns,
        )
        if len(rows) < len(keys):
            await connection.execute(
                """
                insert into consumer_offset (topic, topic_id, partition, next_offset)
                select *, 0 from unnest($1::text[], $2::uuid[], $3::int[]) order by 1, 2, 3 on conflict do nothing
                """,
                *columns,
            )
            return await self._lock_offsets(connection, records)
        done = {(row["topic"], row["partition"]): row["next_offset"] for row in rows}
        return [record for record in records if record.offset >= done[record.topic, record.partition]]

    async def _move_offsets(self, connection: Connection, records: Sequence[Record]) -> None:
        last: dict[Place, int] = {}
        for record in records:
            last[record.topic, record.topic_id, record.partition] = record.offset + 1
        await connection.execute(
            """
            update consumer_offset o set next_offset = greatest(o.next_offset, k.next_offset)
            from unnest($1::text[], $2::uuid[], $3::int[], $4::bigint[]) k(topic, topic_id, partition, next_offset)
            where (o.topic, o.topic_id, o.partition) = (k.topic, k.topic_id, k.partition)
            """,
            [key[0] for key in last],
            [key[1] for key in last],
            [key[2] for key in last],
            list(last.values()),
        )

    async def _advance(self, positions: dict[Place, int]) -> None:
        """Store positions that no record moved."""
        places = sorted(positions)
        async with transaction(self._pool) as connection:
            await connection.execute(
                """
                insert into consumer_offset as o (topic, topic_id, partition, next_offset)
                select * from unnest($1::text[], $2::uuid[], $3::int[], $4::bigint[]) order by 1, 2, 3
                on conflict (topic, topic_id, partition) do update
                set next_offset = greatest(o.next_offset, excluded.next_offset)
                """,
                [place[0] for place in places],
                [place[1] for place in places],
                [place[2] for place in places],
                [positions[place] for place in places],
            )

    async def _load_positions(
        self, consumer: AIOKafkaConsumer, wanted: Sequence[TopicPartition]
    ) -> dict[TopicPartition, tuple[int, int]]:
        """Where each partition goes on, after what is done or at the topic's first record, and what is stored of it."""
        async with self._pool.acquire(timeout=30) as connection:
            rows = await connection.fetch(
                """
                select o.topic, o.partition, o.next_offset from consumer_offset o
                join unnest($1::text[], $2::uuid[]) t(topic, topic_id) using (topic, topic_id)
                """,
                list(self._topic_ids),
                list(self._topic_ids.values()),
            )
        stored = {TopicPartition(self._prefix + row["topic"], row["partition"]): row["next_offset"] for row in rows}
        fresh = [partition for partition in wanted if partition not in stored]
        firsts = await consumer.beginning_offsets(fresh) if fresh else {}
        return {
            partition: (stored.get(partition, firsts.get(partition, 0)), stored.get(partition, 0))
            for partition in wanted
        }

    async def replay(self, dead_id: str, body: bytes | None) -> None:
        """Apply a dead letter again, with another body if one is given.

        Raises Refusal when there is no such dead letter or when it is refused again; it then stays as it was.
        """
        async with transaction(self._pool) as connection:
            record = await lock_dead_letter(connection, dead_id)
            if record is None:
                raise Refusal("dead-letter-not-found", f"there is no open dead letter {dead_id}", status=404)
            if body is not None:
                record = Record(
                    record.topic, record.topic_id, record.partition, record.offset, record.key, body, record.headers
                )
            poll = Poll((record,))
            try:
                await self._apply(connection, poll)
            except Exception as error:
                if is_transient(error) or isinstance(error, TollkeeperError):
                    raise
                raise Refusal("dead-letter-refused-again", describe_error(error), status=422) from error
            if poll.dead:
                raise Refusal("dead-letter-refused-again", f"{poll.dead[0].reason}: {poll.dead[0].detail}", status=422)
            await mark_replayed(connection, dead_id, self.clock.now_us())
        for callback in poll.callbacks:
            callback()


class _Backoff:
    """Pauses that double up to five seconds; while there are any, the group's metric says for how long already."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._seconds = 0.05
        self._since: float | None = None

    async def pause(self) -> None:
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        _retrying_since.setdefault(self._group, {})[id(self)] = self._since
        _show_retrying(self._group)
        await asyncio.sleep(self._seconds)
        self._seconds = min(self._seconds * 2, 5)

    def end(self) -> None:
        """The records are done, or others are tried."""
        if self._since is not None:
            _retrying_since.get(self._group, {}).pop(id(self), None)
            _show_retrying(self._group)


def _show_retrying(group: str) -> None:
    oldest = min(_retrying_since.get(group, {}).values(), default=None)
    RETRYING.labels(group).set(0 if oldest is None else time.monotonic() - oldest)


def _positions_of(consumer: AIOKafkaConsumer) -> dict[TopicPartition, int]:
    """The position of each assigned partition, without awaiting: it must be that of the poll just taken."""
    subscription = consumer._subscription.subscription  # noqa: SLF001 - `position` awaits
    if subscription is None or subscription.assignment is None:
        return {}
    states = {partition: subscription.assignment.state_value(partition) for partition in subscription.assignment.tps}
    return {partition: state.position for partition, state in states.items() if state.has_valid_position}


class _Seeker(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Positions each newly assigned partition where the database says it is now.

    Before it awaits anything, each partition is paused at the position read last: otherwise the fetcher would look for
    positions in Kafka and fail to find any. An old position is right too, only slow: what is done since is dropped
    under the offset's lock.
    """

    def __init__(
        self, consumer: AIOKafkaConsumer, positions: dict[TopicPartition, tuple[int, int]], owner: OffsetConsumer
    ) -> None:
        self._consumer = consumer
        self._positions = positions
        self._owner = owner
        # The positions that it begins with are those of now.
        self._fresh = True

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:  # noqa: ARG002 - aiokafka's signature
        self._owner.assigned.clear()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        partitions = sorted(assigned)
        self._seek(partitions)
        if not self._fresh and partitions:
            self._consumer.pause(*partitions)
            try:
                self._positions |= await asyncio.wait_for(
                    self._owner._load_positions(self._consumer, partitions),  # noqa: SLF001 - a part of it
                    _LOAD_POSITIONS_SECONDS,
                )
                self._seek(partitions)
            except Exception as error:  # noqa: BLE001 - the positions read last are right too
                logger.warning("consumer.positions_not_read", error=repr(error)[:500])
            self._consumer.resume(*partitions)
        self._fresh = False
        self._owner.assigned.set()

    def _seek(self, partitions: Sequence[TopicPartition]) -> None:
        for partition in partitions:
            position, stored = self._positions.get(partition, (0, 0))
            self._consumer.seek(partition, position)
            self._owner._handed[partition] = stored  # noqa: SLF001 - a part of it
