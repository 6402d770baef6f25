"""A topic that is deleted and made anew while it is consumed is read from its first record on."""

import asyncio
from contextlib import suppress

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import for_code

import shared.consumer
from shared.clock import SystemClock
from shared.consumer import OffsetConsumer, Poll
from shared.db import Connection, open_pool
from shared.errors import TransientFault
from shared.topics import CHARGES, ensure_topics
from tests.conftest import MakeDatabase
from tests.shared.test_consumer_faults import send
from tests.support.eventually import eventually


async def make_anew(bootstrap: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.delete_topics([topic])

    async def is_made() -> bool:
        made = await admin.create_topics([NewTopic(topic, 1, 1)])
        return all(for_code(code).errno == 0 for _, code, *_ in made.topic_errors)

    made: bool = await eventually(is_made, what="the topic is made anew")
    assert made
    await admin.close()


async def test_what_a_topic_made_anew_holds_at_old_offsets_is_read(
    make_database: MakeDatabase, kafka_bootstrap: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old position is one that the new topic has, too: nothing is out of range."""
    monkeypatch.setattr(shared.consumer, "TOPICS_SECONDS", 0.2)
    await ensure_topics(kafka_bootstrap, topic_prefix)
    _, app_url = await make_database("balance")
    pool = await open_pool(app_url, application="test", size_max=4)
    seen: set[bytes] = set()

    async def apply(_connection: Connection, poll: Poll) -> None:
        seen.update(record.value or b"" for record in poll.records)

    consumer = OffsetConsumer(
        *(pool, SystemClock(), apply),
        bootstrap=kafka_bootstrap,
        topic_prefix=topic_prefix,
        topics=(CHARGES,),
        group="test",
        wait_ms=20,
    )

    async def keep_running() -> None:
        while True:
            with suppress(TransientFault):
                await consumer.run()

    running = asyncio.create_task(keep_running())
    old = {f"old-{number}".encode() for number in range(3)}
    await send(kafka_bootstrap, topic_prefix + CHARGES, *sorted(old))
    await eventually(lambda: seen == old, what="the old topic is read")
    seen.clear()
    await make_anew(kafka_bootstrap, topic_prefix + CHARGES)
    new = {f"new-{number}".encode() for number in range(9)}
    await send(kafka_bootstrap, topic_prefix + CHARGES, *sorted(new))
    await eventually(lambda: seen == new, timeout_seconds=30, what="all of the new topic")
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await pool.close()
