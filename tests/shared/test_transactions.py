"""Kafka transactions: what was aborted did not happen, and a marker at a partition's tail stops nothing for ever."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiokafka import AIOKafkaProducer

from shared.consumer import Poll
from shared.db import Connection, Pool
from shared.topics import CHARGES
from tests.support.consuming import Apply, consuming
from tests.support.eventually import eventually


@asynccontextmanager
async def transactional(bootstrap: str, name: str) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=name, transaction_timeout_ms=60_000)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


def collecting(seen: list[bytes]) -> Apply:
    async def apply(_connection: Connection, poll: Poll) -> None:
        values = [record.value or b"" for record in poll.records]
        poll.after_commit(lambda: seen.extend(values))

    return apply


async def load_positions(pool: Pool) -> dict[int, int]:
    return {row[0]: row[1] for row in await pool.fetch("select partition, next_offset from consumer_offset")}


async def at_the_end(pool: Pool, watermarks: dict[int, int]) -> None:
    async def reached() -> bool:
        return await load_positions(pool) == watermarks

    there: bool = await eventually(reached, what="positions at the high watermarks")
    assert there


async def test_aborted_records_are_not_read_and_markers_move_the_position(
    consumer_pool: Pool, kafka_bootstrap: str, topic_prefix: str
) -> None:
    """Each partition ends with a transaction's marker."""
    seen: list[bytes] = []
    topic = topic_prefix + CHARGES
    async with consuming(consumer_pool, kafka_bootstrap, topic_prefix, collecting(seen), lanes=2):
        async with transactional(kafka_bootstrap, f"{topic_prefix}one") as producer:
            async with producer.transaction():
                await producer.send_and_wait(topic, b"committed", partition=0)
            with suppress(RuntimeError):
                async with producer.transaction():
                    await producer.send_and_wait(topic, b"aborted", partition=0)
                    await producer.send_and_wait(topic, b"aborted", partition=1)
                    raise RuntimeError
        # Two records and two markers; one record and one marker.
        await at_the_end(consumer_pool, {0: 4, 1: 2})
    assert seen == [b"committed"]


async def test_an_open_transaction_holds_back_and_then_lets_go(
    consumer_pool: Pool, kafka_bootstrap: str, topic_prefix: str
) -> None:
    seen: list[bytes] = []
    topic = topic_prefix + CHARGES
    plain = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap)
    await plain.start()
    async with (
        consuming(consumer_pool, kafka_bootstrap, topic_prefix, collecting(seen), lanes=1),
        transactional(kafka_bootstrap, f"{topic_prefix}open") as producer,
    ):
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"open", partition=0)
        await plain.send_and_wait(topic, b"behind", partition=0)
        await plain.send_and_wait(topic, b"beside", partition=1)
        await eventually(lambda: seen == [b"beside"], what="the neighbour's record")
        assert (await load_positions(consumer_pool)).get(0, 0) == 0
        await producer.commit_transaction()
        await eventually(lambda: sorted(seen) == [b"behind", b"beside", b"open"], what="what waited")
        await at_the_end(consumer_pool, {0: 3, 1: 1})
    await plain.stop()
