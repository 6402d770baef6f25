"""A database that was set back to a backup knows it, before any loop of its service starts (docs/adr/0013).

Every record that a relay publishes carries its stream and sequence number. A topic that has a higher number than the
database gave belongs to a future that was lost; so does a database on another server, timeline or under another id
than it remembers. The service then takes a new incarnation, higher than every one before, and publishes it first.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from shared.clock import Clock
from shared.consumer import OffsetConsumer
from shared.db import Connection, Pool, ensure_partitions, transaction
from shared.events.service import SOURCES, RestoredData, ServiceName, ServiceRestored, read_incarnation
from shared.log import get_logger
from shared.outbox import SERVICE_STREAM, Message, Relay, append_messages
from shared.own_records import OwnRecord, find_own, read_own_events
from shared.restore_records import (
    Mark,
    Restore,
    finish_restore,
    insert_restore,
    load_heads,
    load_mark,
    load_published_offsets,
    load_unfinished_restore,
    raise_heads,
    save_mark,
    save_published_offsets,
    try_lock_restore,
    unlock_restore,
)
from shared.topic_reader import FoundRecord, TopicReader
from shared.topics import SERVICE_EVENTS

logger = get_logger(__name__)

POLL_SECONDS = 0.1
# The connection that holds the lock says something so often that no time-out of the server ends it.
HOLD_SECONDS = 2.0
# A step of a recovery reads topics and computes in its transaction; nobody else works meanwhile.
LONG_STEP_SECONDS = 3600

Offsets = Mapping[str, Mapping[int, int]]


class Recovery:
    """What a service does about a restore of its own database, step by step. A restart repeats the unfinished step.

    The first and the last step run in one transaction each; in between the service may consume.
    """

    async def adopt(self, connection: Connection, restore: Restore, starts: Offsets) -> None:
        """Take over from the service's own topics what lies past `starts`, by topic and partition."""

    async def catch_up(self, restore: Restore) -> None:
        """Apply what was published meanwhile, and publish nothing of it."""

    async def settle(self, connection: Connection, restore: Restore) -> None:
        """Publish where everything stands now."""


@dataclass(slots=True)
class _Seen:
    """What the service's own topics hold past the marks of its relay."""

    heads: dict[int, int] = field(default_factory=dict)  # the highest sequence number by stream
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    told_until_us: int | None = None
    incarnation: int = 0

    def add(self, topic: str, record: FoundRecord, own: OwnRecord | None) -> None:
        self.offsets[topic, record.partition] = record.offset + 1
        if own is None:
            return
        self.heads[own.stream] = max(self.heads.get(own.stream, 0), own.seq)
        if own.time_us is not None:
            self.told_until_us = max(self.told_until_us or own.time_us, own.time_us)


class Restores:
    """Looks at the database of one service and at its own topics, which nobody else publishes to."""

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        reader: TopicReader,
        relay: Relay,
        *,
        service: ServiceName,
        topics: Sequence[str],
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._reader = reader
        self._relay = relay
        self._service = service
        self._topics = tuple(topics)

    async def run(self, recovery: Recovery) -> int:
        """Return the incarnation once this database knows all that it published.

        Costs a look at the topics' ends where it always did. Other processes of the service wait meanwhile.
        """
        async with self._pool.acquire(timeout=30) as guard:
            while not await try_lock_restore(guard):
                await asyncio.sleep(POLL_SECONDS)
            try:
                async with _held(guard):
                    return await self._run(recovery)
            finally:
                try:
                    await unlock_restore(guard)
                except Exception:  # noqa: BLE001 - with its session goes the lock
                    guard.terminate()

    async def _run(self, recovery: Recovery) -> int:
        async with transaction(self._pool) as connection:
            restore = await load_unfinished_restore(connection)
            mark = await load_mark(connection)
        if restore is None:
            restore = await self._notice(recovery)
            if restore is None:
                return mark.incarnation
        await self._publish()
        await recovery.catch_up(restore)
        async with transaction(self._pool, idle_seconds=LONG_STEP_SECONDS) as connection:
            await recovery.settle(connection, restore)
            await finish_restore(connection, restore.incarnation, self._clock.now_us())
        logger.warning("restore.finished", incarnation=restore.incarnation)
        return restore.incarnation

    async def _notice(self, recovery: Recovery) -> Restore | None:
        """Compare the database with its topics; begin a restore if it was set back."""
        async with transaction(self._pool) as connection:
            starts = await load_published_offsets(connection, self._topics)
        seen = await self._look(starts)
        async with transaction(self._pool, idle_seconds=LONG_STEP_SECONDS) as connection:
            # Read after the topics: whatever another process had published by then, it had committed before.
            heads, mark = await load_heads(connection), await load_mark(connection)
            behind = {stream: seq for stream, seq in seen.heads.items() if seq > heads.get(stream, 0)}
            noticed = _explain(behind, mark)
            if noticed is None:
                await save_mark(connection, mark.incarnation, mark.present_identity)
                await save_published_offsets(connection, seen.offsets)
                return None
            incarnation = max(mark.incarnation, seen.incarnation) + 1
            restore = Restore(incarnation, noticed, self._clock.now_us(), seen.told_until_us if behind else None)
            logger.error("restore.noticed", incarnation=incarnation, noticed=noticed)
            await self._begin(connection, restore, mark, recovery, starts, seen)
        return restore

    async def _look(self, starts: Offsets) -> _Seen:
        seen = _Seen()
        for topic in self._topics:
            async for record in self._reader.read_records(topic, starts[topic]):
                seen.add(topic, record, find_own(self._service, topic, record))
        async for event in read_own_events(self._reader, self._service, SERVICE_EVENTS, {}):
            seen.incarnation = max(seen.incarnation, read_incarnation(event, self._service))
        return seen

    async def _begin(
        self,
        connection: Connection,
        restore: Restore,
        mark: Mark,
        recovery: Recovery,
        starts: Offsets,
        seen: _Seen,
    ) -> None:
        """One transaction: from here on no number and no version is used twice."""
        await ensure_partitions(connection, "outbox", restore.restored_at_us)
        await insert_restore(connection, restore)
        await save_mark(connection, restore.incarnation, mark.present_identity)
        await raise_heads(connection, seen.heads)
        await recovery.adopt(connection, restore, starts)
        await save_published_offsets(connection, seen.offsets)
        await append_messages(connection, [restored_message(self._service, restore)], restore.restored_at_us)

    async def _publish(self) -> None:
        """Let peers know before this service says or answers anything else."""
        relaying = asyncio.create_task(self._relay.run())
        try:
            while not await self._is_published():
                done, _ = await asyncio.wait({relaying}, timeout=POLL_SECONDS)
                if done:
                    relaying.result()
        finally:
            await _end(relaying)

    async def _is_published(self) -> bool:
        async with self._pool.acquire(timeout=30) as connection:
            return bool(
                await connection.fetchval(
                    """
                    select h.seq <= c.published_seq from outbox_head h join outbox_cursor c using (stream)
                    where stream = $1
                    """,
                    SERVICE_STREAM,
                )
            )


def _explain(behind: Mapping[int, int], mark: Mark) -> str | None:
    """How it is known that this database was set back; None where nothing says so."""
    if behind:
        return f"{len(behind)} streams were published beyond what the database has"
    if mark.identity is not None and mark.identity != mark.present_identity:
        return f"the database was {mark.identity} and is {mark.present_identity}"
    return None


def restored_message(service: ServiceName, restore: Restore) -> Message:
    event = ServiceRestored(
        id=f"{service}/restored/{restore.incarnation}",
        source=SOURCES[service],
        subject=service,
        time=restore.restored_at_us,
        data=RestoredData(
            service=service,
            incarnation=restore.incarnation,
            restored_at=restore.restored_at_us,
            told_until=restore.told_until_us,
        ),
    )
    # One key per kind: compaction keeps the last restore and the last confirmation of each service.
    return Message(SERVICE_STREAM, SERVICE_EVENTS, f"{service}/restored".encode(), event.model_dump_json().encode())


async def consume_to_end(
    pool: Pool, reader: TopicReader, consumers: Sequence[OffsetConsumer], topics: Sequence[str]
) -> None:
    """Run consumers until they have applied every record that there is now."""
    bounds = await reader.load_bounds(topics)
    wanted = {key: bound.end for key, bound in bounds.items() if bound.first < bound.end}
    running = [asyncio.create_task(consumer.run()) for consumer in consumers]
    try:
        while not await _has_reached(pool, wanted):
            done, _ = await asyncio.wait(running, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in running:
            await _end(task)


async def _has_reached(pool: Pool, wanted: Mapping[tuple[str, int], int]) -> bool:
    async with pool.acquire(timeout=30) as connection:
        rows = await connection.fetch(
            "select topic, partition, max(next_offset) as next_offset from consumer_offset group by 1, 2"
        )
    positions = {(row["topic"], row["partition"]): row["next_offset"] for row in rows}
    return all(positions.get(key, 0) >= end for key, end in wanted.items())


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@asynccontextmanager
async def _held(guard: Connection) -> AsyncIterator[None]:
    """Keep the session of the lock alive; cancel the work under it once it is lost."""
    work = asyncio.current_task()
    assert work is not None

    async def hold() -> None:
        try:
            while True:
                await guard.execute("select 1")
                await asyncio.sleep(HOLD_SECONDS)
        except Exception:
            logger.exception("restore.lock_lost")
            work.cancel("the lock of restores was lost")

    holding = asyncio.create_task(hold())
    try:
        yield
    finally:
        await _end(holding)
