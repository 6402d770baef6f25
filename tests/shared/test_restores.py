"""A database that was set back notices it, on real PostgreSQL and Kafka: once each time, and only then."""

import asyncio
import secrets
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from aiokafka import AIOKafkaProducer

from shared.clock import FixedClock, parse_instant
from shared.db import Connection, Pool, is_transient, open_pool, transaction
from shared.errors import RecordError
from shared.events.charges import compress
from shared.events.service import read_service_event
from shared.kafka import Record, open_producer
from shared.outbox import Message, Relay, append_messages, keep_topic_layout
from shared.own_records import OwnRecord, find_own
from shared.restore_records import Restore, confirm_restores, insert_restore, load_restores
from shared.restores import Offsets, Recovery, Restores
from shared.set_aside import set_aside
from shared.topic_reader import FoundRecord, TopicReader
from shared.topics import (
    ACCOUNT_EVENTS,
    CHARGES,
    COMMANDS,
    ENFORCEMENT_EVENTS,
    PAYMENT_EVENTS,
    PRICE_BOOKS,
    SERVICE_EVENTS,
    TOPICS,
    ensure_topics,
)
from tests.conftest import MakeDatabase
from tests.support.databases import Databases
from tests.support.eventually import eventually
from tests.system.cluster import run_program

NOW = "2026-11-01T08:00:00Z"
STREAM = 5


@dataclass
class Steps(Recovery):
    """Remembers its steps; dies at one of them if it is told to."""

    dies_at: str = ""
    done: Counter[str] = field(default_factory=Counter)

    async def adopt(self, connection: Connection, restore: Restore, starts: Offsets) -> None:  # noqa: ARG002
        await append_messages(connection, [message("adopted")], restore.restored_at_us)
        self._do("adopt")

    async def catch_up(self, restore: Restore) -> None:  # noqa: ARG002
        self._do("catch_up")

    async def settle(self, connection: Connection, restore: Restore) -> None:  # noqa: ARG002
        self._do("settle")

    def _do(self, step: str) -> None:
        self.done[step] += 1
        if step == self.dies_at:
            raise ConnectionError(f"the process died in {step}")


@dataclass
class Life:
    """One process on a database."""

    pool: Pool
    relay: Relay
    clock: FixedClock
    restores: Restores

    async def say(self, *words: str) -> None:
        async with transaction(self.pool) as connection:
            await append_messages(connection, [message(word) for word in words], self.clock.now_us())

    async def publish(self) -> None:
        async with self.pool.acquire() as connection:
            while await self.relay.publish_batch(connection):
                pass


def message(word: str) -> Message:
    value = orjson.dumps({"id": word, "source": "tollkeeper/enforcement", "time": NOW})
    return Message(STREAM, COMMANDS, b"key", value)


class Place:
    """A database that can be set back, and the topics, which can't."""

    def __init__(self, databases: Databases, bootstrap: str, prefix: str, name: str, url: str) -> None:
        self._databases = databases
        self.bootstrap = bootstrap
        self.prefix = prefix
        self.name = name
        self._url = url
        self.reader = TopicReader(bootstrap, prefix)

    @asynccontextmanager
    async def life(self) -> AsyncIterator[Life]:
        clock = FixedClock(parse_instant(NOW))
        pool = await open_pool(self._url, application="restores-test", size_max=4)
        producer = await open_producer(self.bootstrap, f"{self.prefix}restores-test")
        try:
            async with transaction(pool) as connection:
                layout = await keep_topic_layout(connection, {topic.name: topic.partitions for topic in TOPICS})
                await connection.execute("select ensure_day_partitions('outbox', '2026-10-31', '2026-11-02')")
            relay = Relay(pool, producer, clock, topic_prefix=self.prefix, partitions=layout)
            topics = (COMMANDS, ENFORCEMENT_EVENTS)
            yield Life(
                pool, relay, clock, Restores(pool, clock, self.reader, relay, service="enforcement", topics=topics)
            )
        finally:
            await producer.stop()
            await pool.close()

    async def back_up(self) -> None:
        await self._databases.copy(self.name, f"{self.name}_backup")

    async def set_back(self) -> None:
        await self._databases.copy(f"{self.name}_backup", self.name)

    async def told(self) -> list[int]:
        """The incarnations on the topic of services."""
        found = [orjson.loads(value or b"") async for _, _, value in self.reader.read(SERVICE_EVENTS, {})]
        return [event["data"]["incarnation"] for event in found]

    async def sequence(self) -> list[tuple[int, str]]:
        """Sequence number and word of every record of the stream."""
        return [
            (int(record.headers["seq"] or b""), orjson.loads(record.value or b"")["id"])
            async for record in self.reader.read_records(COMMANDS, {})
        ]


@pytest.fixture
async def place(databases: Databases, kafka_bootstrap: str, topic_prefix: str) -> AsyncIterator[Place]:
    await ensure_topics(kafka_bootstrap, topic_prefix)
    name, _, url = await databases.make("enforcement")
    yield Place(databases, kafka_bootstrap, topic_prefix, name, url)
    await databases.drop(name)
    await databases.drop(f"{name}_backup")


async def test_a_database_is_set_back_twice_to_one_backup(place: Place) -> None:
    """The second time it knows nothing of the first, and must not take its incarnation or numbers again."""
    async with place.life() as life:
        assert await life.restores.run(Steps()) == 0
        await life.say("a", "b")
        await life.publish()
    await place.back_up()
    for incarnation in (1, 2):
        async with place.life() as life:
            await life.say(f"lost {incarnation}", f"lost too {incarnation}")
            await life.publish()
        await place.set_back()
        steps = Steps()
        async with place.life() as life:
            assert await life.restores.run(steps) == incarnation
            assert steps.done == Counter(adopt=1, catch_up=1, settle=1)
            assert await place.told() == list(range(1, incarnation + 1))
            await life.say(f"after {incarnation}")
            await life.publish()
            async with transaction(life.pool) as connection:
                [restore] = await load_restores(connection)
            assert restore.told_until_us == parse_instant(NOW)
            assert await life.restores.run(Steps()) == incarnation, "a restart is no restore"
    sequence = await place.sequence()
    # Adopting tells too. Each word that counts has a number of its own, and numbers rise from life to life.
    kept = [number for number, word in sequence if word.startswith(("adopted", "after"))]
    assert kept == sorted(set(kept))
    assert {"after 1", "after 2"} <= {word for _, word in sequence}


async def test_a_moved_database_is_noticed_though_nothing_was_published_since(place: Place) -> None:
    async with place.life() as life:
        assert await life.restores.run(Steps()) == 0
        await life.say("a")
        await life.publish()
    await place.back_up()
    await place.set_back()
    async with place.life() as life:
        assert await life.restores.run(Steps()) == 1
        async with transaction(life.pool) as connection:
            [restore] = await load_restores(connection)
        assert restore.told_until_us is None
        assert restore.noticed.startswith("the database was")


async def test_a_relay_that_died_before_its_mark_is_no_restore(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def die(*_arguments: Any) -> None:
        raise ConnectionError("the process died")

    async with place.life() as life:
        assert await life.restores.run(Steps()) == 0
        await life.say("a", "b")
        with monkeypatch.context() as patch:
            patch.setattr(life.relay, "_mark", die)
            with pytest.raises(ConnectionError):
                await life.publish()
        records: list[tuple[int, str]] = await eventually(place.sequence, what="the records")
        assert records == [(1, "a"), (2, "b")]
        assert await life.restores.run(Steps()) == 0
    assert await place.told() == []


@pytest.mark.parametrize("step", ["adopt", "catch_up", "settle"])
async def test_a_restore_that_died_continues_where_it_was(place: Place, step: str) -> None:
    async with place.life() as life:
        assert await life.restores.run(Steps()) == 0
    await place.back_up()
    async with place.life() as life:
        await life.say("lost")
        await life.publish()
    await place.set_back()
    dead, next_ = Steps(step), Steps()
    async with place.life() as life:
        with pytest.raises(ConnectionError):
            await life.restores.run(dead)
    async with place.life() as life:
        assert await life.restores.run(next_) == 1
    assert next_.done["adopt"] == (1 if step == "adopt" else 0), "what was committed is not adopted again"
    assert next_.done["settle"] == 1
    assert await place.told() == [1]


async def test_of_two_processes_that_start_at_once_one_restores(place: Place) -> None:
    async with place.life() as life:
        assert await life.restores.run(Steps()) == 0
    await place.back_up()
    async with place.life() as life:
        await life.say("lost")
        await life.publish()
    await place.set_back()
    first, second = Steps(), Steps()
    async with place.life() as one, place.life() as other:
        incarnations = await asyncio.gather(one.restores.run(first), other.restores.run(second))
        assert list(incarnations) == [1, 1]
    assert first.done + second.done == Counter(adopt=1, catch_up=1, settle=1)


async def test_the_end_of_a_transaction_at_the_tail_holds_nobody_up(place: Place) -> None:
    """A stranger wrote to our topic, and its last offset is no record."""
    producer = AIOKafkaProducer(bootstrap_servers=place.bootstrap, transactional_id=f"{place.prefix}stranger")
    await producer.start()
    with suppress(RuntimeError):
        async with producer.transaction():
            await producer.send_and_wait(f"{place.prefix}{COMMANDS}", b"{}", partition=0)
            raise RuntimeError("aborted")
    await producer.stop()
    plain = await open_producer(place.bootstrap, f"{place.prefix}plain")
    await plain.send_and_wait(f"{place.prefix}{SERVICE_EVENTS}", b"no JSON", key=b"stranger", partition=0)
    await plain.send_and_wait(f"{place.prefix}{ENFORCEMENT_EVENTS}", b"{no JSON", partition=0)
    await plain.stop()
    async with place.life() as life, asyncio.timeout(30):
        assert await life.restores.run(Steps()) == 0


HEADERS: tuple[tuple[tuple[str, bytes | None], ...], ...] = (
    (),
    (("stream", b"abc"), ("seq", b"1")),
    (("stream", b"5"), ("seq", b"")),
    (("stream", b"\xff"), ("seq", b"\x00")),
    (("stream", None), ("seq", None)),
    (("stream", b"99999999999999"), ("seq", b"1")),
    (("stream", b"5"), ("seq", b"9223372036854775808")),
    (("stream", b"5"), ("seq", b"7")),
)
VALUES = (
    b"{",
    b"\xff",
    b"[]",
    b"null",
    b'{"time":"never"}',
    b'{"source":"tollkeeper/enforcement","time":5}',
    b'{"source":"tollkeeper/balance","time":"2026-11-01T08:00:00Z","data":{"incarnation":3}}',
    b'{"source":["tollkeeper/enforcement"],"time":"2026-11-01T08:00:00Z"}',
    b'{"x":"\\ud800"}',
)


async def test_no_record_on_its_own_topics_keeps_a_service_from_starting(place: Place) -> None:
    """Whatever a stranger writes there, with headers like the relay's too, is passed over: it is no restore."""
    plain = await open_producer(place.bootstrap, f"{place.prefix}plain")
    for topic in (COMMANDS, SERVICE_EVENTS):
        for headers in HEADERS:
            for value in VALUES:
                await plain.send(f"{place.prefix}{topic}", value, key=b"k", partition=0, headers=list(headers))
    await plain.flush()
    await plain.stop()
    async with place.life() as life, asyncio.timeout(30):
        assert await life.restores.run(Steps()) == 0


@pytest.mark.parametrize("topic", [CHARGES, PRICE_BOOKS, PAYMENT_EVENTS, ACCOUNT_EVENTS])
@pytest.mark.parametrize("headers", HEADERS)
def test_a_stranger_is_told_from_a_relay(topic: str, headers: tuple[tuple[str, bytes | None], ...]) -> None:
    for value in (None, b"", *VALUES, compress(b'{"shard":5,"seq":8}'), compress(b"[]")):
        assert find_own("payment", topic, FoundRecord(0, 0, value, dict(headers))) is None


def test_a_batch_is_its_relays_by_its_own_place() -> None:
    record = FoundRecord(0, 0, compress(b'{"shard":5,"seq":7}'), {"stream": b"5", "seq": b"7"})
    assert find_own("metering", CHARGES, record) == OwnRecord(5, 7, None)


async def test_a_restore_that_never_was_is_not_confirmed(place: Place) -> None:
    """An operator's typo: restores to come would be taken for confirmed."""
    async with place.life() as life, transaction(life.pool) as connection:
        await insert_restore(connection, Restore(1, "set back", life.clock.now_us(), None))
        for incarnation, confirmed in ((2, 0), (100, 0), (1, 1), (1, 0)):
            now_us = life.clock.now_us()
            assert await confirm_restores(connection, incarnation, "sre", "looked", now_us) == confirmed


async def test_a_value_too_long_for_its_index_is_no_passing_fault(place: Place) -> None:
    """A record that brings one is buried. Tried again for ever, it holds up its partition."""
    async with place.life() as life:
        with pytest.raises(asyncpg.ProgramLimitExceededError) as caught:
            async with transaction(life.pool) as connection:
                await set_aside(connection, "tick", secrets.token_hex(4000), "too long", life.clock.now_us())
    assert not is_transient(caught.value)


def test_a_service_is_named_by_an_identifier() -> None:
    data = {"service": "x" * 201, "incarnation": 1, "restored_at": NOW, "told_until": None}
    event = {"id": "a", "source": "a", "subject": "a", "time": NOW, "type": "service.restored", "data": data}
    record = Record(SERVICE_EVENTS, uuid.UUID(int=1), 0, 0, None, orjson.dumps({**event, "specversion": "1.0"}), ())
    with pytest.raises(RecordError, match="service"):
        read_service_event(record)


async def test_a_dump_that_is_put_back_in_place_is_another_database(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    """Nothing was published since, so that its own topics do not say it."""
    owner_url, _ = await make_database("payment")

    async def identity() -> str:
        connection = await asyncpg.connect(owner_url)
        try:
            return str(await connection.fetchval("select database_identity()"))
        finally:
            await connection.close()

    before, dump = await identity(), str(tmp_path / "dump")
    await asyncio.to_thread(run_program, "pg_dump", "--format=custom", f"--file={dump}", owner_url)
    assert await identity() == before
    await asyncio.to_thread(run_program, "pg_restore", "--clean", f"--dbname={owner_url}", "--exit-on-error", dump)
    assert await identity() != before
