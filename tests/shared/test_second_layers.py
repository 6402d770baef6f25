"""Layers behind other layers: each is tested where the others agree.

An offset's row locks out a second consumer, a dead letter is replayed once, and a relay keeps each stream's order on
the topic: effects that dedupe by themselves would hide all three.
"""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from shared import dead_letters, outbox
from shared.clock import FixedClock
from shared.consumer import OffsetConsumer, Poll
from shared.db import Connection, Pool, ensure_partitions, open_pool, transaction
from shared.errors import Refusal
from shared.kafka import Record, open_producer
from shared.outbox import Message, Relay, append_messages
from shared.topics import CHARGES, ensure_topics
from tests.conftest import MakeDatabase
from tests.support.planting import plant

NOW_US = 1_800_000_000_000_000
TOPIC_ID = uuid.UUID(int=3)
STREAMS, MESSAGES = 6, 25


def record(offset: int, value: bytes = b"1") -> Record:
    return Record(CHARGES, TOPIC_ID, 0, offset, None, value)


async def count_up(connection: Connection, poll: Poll) -> None:
    """An effect that does not dedupe: each record adds one."""
    for item in poll.records:
        if item.value == b"bad":
            poll.bury(item, "bad", "it is bad")
        else:
            await connection.execute(
                "insert into topic_layout values ('applied', 1) on conflict (topic) "
                "do update set partitions = topic_layout.partitions + 1"
            )


async def applied(pool: Pool) -> int:
    return await pool.fetchval("select partitions from topic_layout where topic = 'applied'") or 0


def consumer(pool: Pool) -> OffsetConsumer:
    return OffsetConsumer(
        pool, FixedClock(NOW_US), count_up, bootstrap="", topic_prefix="", topics=(CHARGES,), group="g"
    )


@pytest.fixture
async def pool(make_database: MakeDatabase) -> AsyncIterator[Pool]:
    _, url = await make_database("balance")
    made = await open_pool(url, application="layers", size_max=8)
    async with transaction(made) as connection:
        await ensure_partitions(connection, "outbox", NOW_US)
    yield made
    await made.close()


async def two_consumers_of_a_partition_apply_each_record_once(pool: Pool) -> None:
    """Both believe that the partition is theirs and have fetched the same records, in polls of other sizes."""
    records = [record(offset) for offset in range(12)]
    first, second = consumer(pool), consumer(pool)
    polls = [
        *(first._apply_once(records[at : at + 4]) for at in (0, 4, 8)),
        *(second._apply_once(records[at : at + 3]) for at in (0, 3, 6, 9)),
    ]
    await asyncio.gather(polls[0], polls[3])
    for poll in polls[1:3] + polls[4:]:
        await poll
    await second._apply_once(records)
    assert await applied(pool) == len(records)
    assert await pool.fetchval("select next_offset from consumer_offset") == len(records)


async def a_dead_letter_is_replayed_once(pool: Pool) -> None:
    one = consumer(pool)
    await one._apply_once([record(0, b"bad")])
    dead_id = record(0).dead_id
    with pytest.raises(Refusal, match="refused-again"):
        await one.replay(dead_id, None)
    results = await asyncio.gather(*(one.replay(dead_id, body) for body in (b"1", b"2")), return_exceptions=True)
    refused = [error for error in results if isinstance(error, BaseException)]
    assert [error.code if isinstance(error, Refusal) else error for error in refused] == ["dead-letter-not-found"]
    with pytest.raises(Refusal, match="dead-letter-not-found"):
        await one.replay(dead_id, b"3")
    assert await applied(pool) == 1


async def append_all(pool: Pool) -> None:
    for number in range(MESSAGES):
        async with transaction(pool) as connection:
            messages = [Message(stream, CHARGES, b"k", f"{stream}/{number}".encode()) for stream in range(STREAMS)]
            await append_messages(connection, messages, NOW_US)


@asynccontextmanager
async def relaying(pool: Pool, bootstrap: str, prefix: str, batch: int) -> AsyncIterator[Relay]:
    producer = await open_producer(bootstrap, f"{prefix}relay")
    try:
        yield Relay(
            pool,
            producer,
            FixedClock(NOW_US),
            topic_prefix=prefix,
            partitions={CHARGES: 4},
            batch_messages_max=batch,
        )
    finally:
        await producer.stop()


async def read_streams(bootstrap: str, prefix: str) -> dict[str, list[int]]:
    """What each stream put on the topic, in the topic's order."""
    reader = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await reader.start()
    try:
        partitions = [TopicPartition(prefix + CHARGES, number) for number in range(4)]
        reader.assign(partitions)
        await reader.seek_to_beginning(*partitions)
        ends = await reader.end_offsets(partitions)
        found: dict[str, list[int]] = defaultdict(list)
        while any([await reader.position(partition) < end for partition, end in ends.items()]):
            for records in (await reader.getmany(timeout_ms=500)).values():
                for item in records:
                    stream, number = item.value.decode().split("/")
                    found[stream].append(int(number))
        return found
    finally:
        await reader.stop()


async def a_relay_keeps_each_streams_order(pool: Pool, bootstrap: str, prefix: str) -> None:
    await ensure_topics(bootstrap, prefix)
    await append_all(pool)
    async with relaying(pool, bootstrap, prefix, batch=7) as relay, pool.acquire() as connection:
        while await relay.publish_batch(connection):
            pass
    found = await read_streams(bootstrap, prefix)
    assert found == {str(stream): list(range(MESSAGES)) for stream in range(STREAMS)}


async def test_two_consumers_of_a_partition_apply_each_record_once(pool: Pool) -> None:
    await two_consumers_of_a_partition_apply_each_record_once(pool)


async def test_a_dead_letter_is_replayed_once_even_by_two_at_once(pool: Pool) -> None:
    await a_dead_letter_is_replayed_once(pool)


async def test_a_relay_keeps_each_streams_order(pool: Pool, kafka_bootstrap: str, topic_prefix: str) -> None:
    await a_relay_keeps_each_streams_order(pool, kafka_bootstrap, topic_prefix)


PLANTS: dict[str, tuple[Callable[[Pool], Awaitable[None]], Callable[..., object], str, str]] = {
    "offsets lock nobody out": (
        two_consumers_of_a_partition_apply_each_record_once,
        OffsetConsumer._lock_offsets,
        "if record.offset >= done[record.topic, record.partition]",
        "if done or record",
    ),
    "a dead letter may be replayed again": (
        a_dead_letter_is_replayed_once,
        dead_letters.lock_dead_letter,
        " and replayed_at is null",
        "",
    ),
}


@pytest.mark.parametrize("name", PLANTS)
async def test_the_bug_is_seen(name: str, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    check, target, right, wrong = PLANTS[name]
    plant(monkeypatch, target, right, wrong)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await check(pool)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("order by m.stream, m.seq limit", "order by m.stream, m.seq desc limit")],
)
async def test_a_relay_out_of_order_is_seen(
    right: str, wrong: str, pool: Pool, kafka_bootstrap: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, outbox.Relay._load_unpublished, right, wrong)
    with pytest.raises(AssertionError):
        await a_relay_keeps_each_streams_order(pool, kafka_bootstrap, topic_prefix)
