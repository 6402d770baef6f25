"""Payment events on real Kafka: copies in every partition and consumers cut off at any record are one credit each."""

import asyncio
from contextlib import suppress

from shared.consumer import OffsetConsumer
from shared.kafka import open_producer
from shared.topics import PAYMENT_EVENTS, ensure_topics
from tests.balance.books import Books
from tests.balance.facts import captured, refunded
from tests.support.eventually import eventually

PAYMENTS = 40
COPIES = 5
TENANTS = 6


async def produce_facts(bootstrap: str, topic: str) -> int:
    """Send every fact several times, each copy to another partition; answer how many records that are."""
    producer = await open_producer(bootstrap, "test")
    facts = [
        *(captured(f"stripe:pi_{number}", 100, tenant=f"t{number % TENANTS}") for number in range(PAYMENTS)),
        *(refunded("stripe:pi_0", f"stripe:re_{number}", 10, tenant="t0") for number in range(3)),
    ]
    values = [fact.model_dump_json().encode() for fact in facts]
    try:
        for copy in range(COPIES):
            for number, value in enumerate(values):
                await producer.send_and_wait(topic, value, partition=(number + copy) % 4)
    finally:
        await producer.stop()
    return len(values) * COPIES


async def test_consumers_cut_off_while_they_post_lose_and_double_nothing(
    books: Books, kafka_bootstrap: str, topic_prefix: str
) -> None:
    await ensure_topics(kafka_bootstrap, topic_prefix)
    sent = await produce_facts(kafka_bootstrap, topic_prefix + PAYMENT_EVENTS)

    def consume(group: str) -> tuple[OffsetConsumer, asyncio.Task[None]]:
        consumer = OffsetConsumer(
            books.pool,
            books.clock,
            books.payment_poster.apply,
            bootstrap=kafka_bootstrap,
            topic_prefix=topic_prefix,
            topics=(PAYMENT_EVENTS,),
            group=group,
            records_max=3,
        )
        return consumer, asyncio.create_task(consumer.run())

    async def cut_off(consumer: OffsetConsumer, task: asyncio.Task[None]) -> None:
        """Not while it connects: aiokafka forgets to close a connection whose making is cancelled."""
        await asyncio.wait_for(consumer.assigned.wait(), 30)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def done() -> int:
        [(moved,)] = await books.rows("select coalesce(sum(next_offset), 0)::bigint from consumer_offset")
        assert isinstance(moved, int)
        return moved

    async def get_beyond(count: int) -> bool:
        return sent == await done() or await done() > count

    # Two groups: both believe to own every partition, as two workers do of which one does not know yet that it lost it.
    running = [consume("one"), consume("two")]
    try:
        for cut in range(3):
            before = await done()
            moved: bool = await eventually(lambda before=before: get_beyond(before), what="some progress")  # type: ignore[misc]
            assert moved
            await cut_off(*running[cut % 2])
            running[cut % 2] = consume("one" if cut % 2 == 0 else "two")

        async def all_done() -> bool:
            return await done() == sent

        finished: bool = await eventually(all_done, timeout_seconds=60, what="every record applied")
        assert finished
    finally:
        for consumer, task in running:
            await cut_off(consumer, task)
    balances = await books.rows("select tenant_id, balance_micros from account order by 1")
    paid = [100 * len(range(number, PAYMENTS, TENANTS)) for number in range(TENANTS)]
    assert balances == [("t0", paid[0] - 30), *((f"t{number}", paid[number]) for number in range(1, TENANTS))]
    assert await books.rows("select count(*) from dead_letter") == [(0,)]
    assert await books.audit() == []
