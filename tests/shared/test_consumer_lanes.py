"""A consumer with lanes: several transactions at once, each partition's records in order, one fault for all."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from aiokafka.errors import KafkaError

from shared.clock import SystemClock
from shared.consumer import OffsetConsumer, Poll
from shared.db import Connection, open_pool
from shared.kafka import open_producer
from shared.topics import CHARGES, ensure_topics
from tests.conftest import MakeDatabase

PARTITIONS = 8
RECORDS = 12
Apply = Callable[[Connection, Poll], Awaitable[None]]


async def consume(
    apply: Apply, until: asyncio.Event, make_database: MakeDatabase, bootstrap: str, prefix: str, partitions: int
) -> None:
    """Produce to some partitions and consume in two lanes until the event or the consumer's end."""
    await ensure_topics(bootstrap, prefix)
    producer = await open_producer(bootstrap, f"{prefix}lanes")
    for number in range(RECORDS):
        for partition in range(partitions):
            await producer.send(prefix + CHARGES, str(number).encode(), partition=partition)
    await producer.stop()
    _, app_url = await make_database("balance")
    pool = await open_pool(app_url, application="lanes", size_max=4)
    consumer = OffsetConsumer(
        pool,
        SystemClock(),
        apply,
        bootstrap=bootstrap,
        topic_prefix=prefix,
        topics=(CHARGES,),
        group="lanes",
        records_max=RECORDS,
        lanes=2,
    )
    running = asyncio.create_task(consumer.run())
    waiting = asyncio.create_task(until.wait())
    await asyncio.wait({running, waiting}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if running.done():
        await pool.close()
        running.result()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await pool.close()
    assert until.is_set(), "the consumer did not come to an end of what there was"


async def test_lanes_work_at_once_and_keep_each_partitions_order(
    make_database: MakeDatabase, kafka_bootstrap: str, topic_prefix: str
) -> None:
    found: dict[int, list[int]] = {}
    inside: set[int] = set()
    both, done = asyncio.Event(), asyncio.Event()

    async def apply(connection: Connection, poll: Poll) -> None:
        [lane] = {record.partition % 2 for record in poll.records}
        assert lane not in inside, "a lane has one transaction at a time"
        inside.add(lane)
        if len(inside) == 2:
            both.set()
        # With one lane nobody would ever come to set it. The first polls may all be of one lane: no longer than that.
        with suppress(TimeoutError):
            await asyncio.wait_for(both.wait(), 1)
        await connection.execute("select pg_sleep(0.001)")
        inside.discard(lane)
        for record in poll.records:
            assert record.value is not None
            found.setdefault(record.partition, []).append(int(record.value))
        if sum(map(len, found.values())) == RECORDS * PARTITIONS:
            done.set()

    await consume(apply, done, make_database, kafka_bootstrap, topic_prefix, PARTITIONS)
    assert both.is_set()
    assert found == {partition: list(range(RECORDS)) for partition in range(PARTITIONS)}


async def test_what_stops_one_lane_stops_the_consumer_with_its_own_error(
    make_database: MakeDatabase, kafka_bootstrap: str, topic_prefix: str
) -> None:
    cancelled: list[int] = []

    async def apply(connection: Connection, poll: Poll) -> None:
        if poll.records[0].partition % 2:
            raise KafkaError("the broker is gone")
        try:
            await connection.execute("select pg_sleep(30)")
        except asyncio.CancelledError:
            cancelled.append(poll.records[0].partition)
            raise

    with pytest.raises(KafkaError, match="the broker is gone") as raised:
        await consume(apply, asyncio.Event(), make_database, kafka_bootstrap, topic_prefix, 2)
    assert len(cancelled) <= 1
    # Whoever follows what led to it never comes back to it.
    assert raised.value.__cause__ is None
