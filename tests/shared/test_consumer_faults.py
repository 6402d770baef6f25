"""What of a record's failure is its own: errors of a connection or session bury nobody's record."""

import asyncio

import asyncpg
import pytest

from shared.consumer import RETRYING, Poll
from shared.db import Connection, Pool, open_pool
from shared.errors import Corruption
from shared.kafka import open_producer
from shared.topics import CHARGES, ensure_topics
from tests.conftest import MakeDatabase
from tests.support.consuming import consuming
from tests.support.eventually import eventually


async def send(bootstrap: str, topic: str, *values: bytes, partition: int = 0) -> None:
    producer = await open_producer(bootstrap, "test")
    for value in values:
        await producer.send_and_wait(topic, value, partition=partition)
    await producer.stop()


async def count_dead(pool: Pool) -> int:
    return int(await pool.fetchval("select count(*) from dead_letter"))


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress"),
        asyncpg.InterfaceError("the connection is closed"),
        asyncpg.IdleInTransactionSessionTimeoutError("terminating connection"),
        asyncpg.ReadOnlySQLTransactionError("cannot execute INSERT in a read-only transaction"),
    ],
)
async def test_errors_of_a_session_are_retried_and_bury_nothing(
    error: Exception, consumer_pool: Pool, kafka_bootstrap: str, topic_prefix: str
) -> None:
    seen: list[bytes] = []
    failures = [error] * 3
    retrying = RETRYING.labels(f"{topic_prefix}test")
    shown: list[float] = []

    async def apply(_connection: Connection, poll: Poll) -> None:
        shown.append(retrying._value.get())
        if failures:
            raise failures.pop()
        seen.extend(record.value or b"" for record in poll.records)

    async with consuming(consumer_pool, kafka_bootstrap, topic_prefix, apply):
        await send(kafka_bootstrap, topic_prefix + CHARGES, b"good")
        await eventually(lambda: seen == [b"good"])
        await eventually(lambda: retrying._value.get() == 0, what="nothing retried")
    assert await count_dead(consumer_pool) == 0
    assert shown[0] == 0
    assert shown[-1] > 0, "the metric says that a poll is retried"


async def test_facts_that_contradict_each_other_stop_no_neighbour(
    consumer_pool: Pool, kafka_bootstrap: str, topic_prefix: str
) -> None:
    """The record that they come of is kept as a dead letter; those beside and behind it are applied."""
    seen: list[bytes] = []

    async def apply(_connection: Connection, poll: Poll) -> None:
        values = [record.value or b"" for record in poll.records]
        if b"bad" in values:
            raise Corruption("a stored row can't be read")
        seen.extend(values)

    async with consuming(consumer_pool, kafka_bootstrap, topic_prefix, apply):
        await send(kafka_bootstrap, topic_prefix + CHARGES, b"one", b"bad", b"two")
        await eventually(lambda: set(seen) == {b"one", b"two"})
        await send(kafka_bootstrap, topic_prefix + CHARGES, b"three")
        await eventually(lambda: b"three" in seen)
    assert await count_dead(consumer_pool) == 1


async def test_sessions_that_are_cut_all_the_time_bury_nothing(
    make_database: MakeDatabase, kafka_bootstrap: str, topic_prefix: str, postgres_admin_url: str
) -> None:
    await ensure_topics(kafka_bootstrap, topic_prefix)
    owner_url, app_url = await make_database("balance")
    pool = await open_pool(app_url, application="cut-test", size_max=4)

    async def apply(connection: Connection, poll: Poll) -> None:
        # A commit that is cut off may have happened: only the database knows what was applied. Twice would fail.
        await connection.executemany(
            "insert into set_aside (kind, item, reason, attempts, first_at, last_at, next_at)"
            " values ('cut-test', $1, '', 1, 'epoch', 'epoch', 'epoch')",
            [((record.value or b"").decode(),) for record in poll.records],
        )

    async def applied() -> bool:
        return bool(await admin_of_books.fetchval("select count(*) from set_aside where kind = 'cut-test'") == 100)

    admin = await asyncpg.connect(postgres_admin_url)
    admin_of_books = await asyncpg.connect(owner_url)

    async def cut() -> None:
        for _ in range(100):
            await admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'cut-test'"
            )
            await asyncio.sleep(0.02)

    values = {str(number).encode() for number in range(100)}
    async with consuming(pool, kafka_bootstrap, topic_prefix, apply) as consumer:
        await consumer.assigned.wait()
        cutting = asyncio.create_task(cut())
        await send(kafka_bootstrap, topic_prefix + CHARGES, *values)
        await cutting
        done: bool = await eventually(applied, what="all records applied")
        assert done
    await admin_of_books.close()
    await admin.close()
    await pool.expire_connections()
    assert await count_dead(pool) == 0
    await pool.close()


async def test_a_lone_record_is_buried_only_after_a_fresh_connection_saw_it_fail_too(
    consumer_pool: Pool, kafka_bootstrap: str, topic_prefix: str
) -> None:
    seen: list[bytes] = []
    sessions: dict[bytes, list[int]] = {b"spoilt session": [], b"bad": []}

    async def apply(connection: Connection, poll: Poll) -> None:
        for record in poll.records:
            value = record.value or b""
            if value in sessions:
                sessions[value].append(connection.get_server_pid())
                if value == b"bad" or len(set(sessions[value])) == 1:
                    raise ValueError(value)
            seen.append(value)

    async with consuming(consumer_pool, kafka_bootstrap, topic_prefix, apply):
        for value in (b"spoilt session", b"bad", b"good"):
            await send(kafka_bootstrap, topic_prefix + CHARGES, value)
        await eventually(lambda: seen[-1:] == [b"good"])
    assert b"spoilt session" in seen
    assert all(len(set(pids)) == 2 for pids in sessions.values())
    assert await consumer_pool.fetchval("select value from dead_letter") == b"bad"


async def test_a_rebalance_goes_on_at_what_is_applied(
    consumer_pool: Pool, kafka_bootstrap: str, topic_prefix: str
) -> None:
    """Partitions come back to a worker that another one served meanwhile."""
    seen: list[bytes] = []
    handed: list[int] = []

    async def apply(_connection: Connection, poll: Poll) -> None:
        values = [record.value or b"" for record in poll.records]
        poll.after_commit(lambda: seen.extend(values))

    async def send_all(value: bytes) -> None:
        for partition in range(8):
            await send(kafka_bootstrap, topic_prefix + CHARGES, *[value] * 3, partition=partition)

    async with consuming(consumer_pool, kafka_bootstrap, topic_prefix, apply) as first:
        await first.assigned.wait()
        apply_once = first._apply_once

        async def count_handed(records: object) -> None:
            handed.append(len(records))  # type: ignore[arg-type]
            await apply_once(records)  # type: ignore[arg-type]

        first._apply_once = count_handed  # type: ignore[method-assign]
        await send_all(b"alone")
        await eventually(lambda: len(seen) == 24)
        first.assigned.clear()
        async with consuming(consumer_pool, kafka_bootstrap, topic_prefix, apply):
            await eventually(first.assigned.is_set)
            await send_all(b"together")
            await eventually(lambda: len(seen) == 48)
            first.assigned.clear()
            before = sum(handed)
        await eventually(first.assigned.is_set)
        await send(kafka_bootstrap, topic_prefix + CHARGES, b"alone again", partition=7)
        await eventually(lambda: len(seen) == 49)
    assert sum(handed) == before + 1
