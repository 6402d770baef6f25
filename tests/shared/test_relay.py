"""The relay: hints wake it, polling is the truth, and nothing that can be sent again is dropped by a wrong clock."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from shared.clock import DAY_US, FixedClock
from shared.db import Pool, day_of, ensure_partitions, is_transient, open_pool, transaction
from shared.errors import Corruption
from shared.outbox import OLDEST_UNPUBLISHED, Message, Relay, append_messages, resend
from shared.topics import ACCOUNT_EVENTS
from tests.conftest import MakeDatabase
from tests.support.eventually import eventually

START_US = 1_767_225_600_000_000
STREAM = 3


@dataclass(frozen=True)
class Sent:
    partition: int
    offset: int


@dataclass
class Producer:
    """Takes messages at once, or only once `takes` is set."""

    values: list[bytes] = field(default_factory=list)
    takes: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, _topic: str, *, value: bytes, partition: int, **_: Any) -> "asyncio.Future[Sent]":
        async def send() -> Sent:
            await self.takes.wait()
            self.values.append(value)
            return Sent(partition, len(self.values))

        return asyncio.ensure_future(send())


@pytest.fixture
async def pool(make_database: MakeDatabase) -> AsyncIterator[Pool]:
    _, url = await make_database("balance")
    opened = await open_pool(url, application="relay-test", size_max=6)
    async with transaction(opened) as connection:
        await ensure_partitions(connection, "outbox", START_US)
    yield opened
    await opened.close()


def make_relay(pool: Pool, producer: Producer, clock: FixedClock | None = None, **options: Any) -> Relay:
    partitions = {ACCOUNT_EVENTS: 4}
    options = {"topic_prefix": "", "partitions": partitions, "idle_seconds": 60, **options}
    return Relay(pool, producer, clock or FixedClock(START_US), **options)


@asynccontextmanager
async def running(*relays: Relay) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(relay.run()) for relay in relays]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def append(pool: Pool, value: bytes, now_us: int = START_US) -> None:
    async with transaction(pool) as connection:
        await append_messages(connection, [Message(STREAM, ACCOUNT_EVENTS, None, value)], now_us)


async def hold_lock(pool: Pool) -> bool:
    return bool(await pool.fetchval("select count(*) from pg_locks where locktype = 'advisory' and granted"))


def taking() -> Producer:
    producer = Producer()
    producer.takes.set()
    return producer


def holds(producer: Producer, messages: int) -> bool:
    return len(producer.values) == messages


async def test_a_commit_in_the_same_process_wakes_the_relay(pool: Pool) -> None:
    producer = taking()
    async with running(make_relay(pool, producer)):
        held: bool = await eventually(lambda: hold_lock(pool))
        assert held
        for number in range(3):
            await append(pool, b"%d" % number)
            await eventually(partial(holds, producer, number + 1), timeout_seconds=10)


async def test_a_notification_of_another_process_wakes_the_relay(pool: Pool) -> None:
    producer = taking()
    async with running(make_relay(pool, producer)):
        held: bool = await eventually(lambda: hold_lock(pool))
        assert held
        # Not by `transaction`: what another process appends wakes nobody here.
        async with pool.acquire() as connection:
            await append_messages(connection, [Message(STREAM, ACCOUNT_EVENTS, None, b"theirs")], START_US)
        await pool.execute("select pg_notify('tollkeeper_outbox', '')")
        await eventually(lambda: producer.values == [b"theirs"], timeout_seconds=10)


async def test_a_stand_by_passes_its_hints_on(pool: Pool) -> None:
    """Both relays are of this process: only the second one is woken, as if the first were of another."""
    producer, heard = taking(), asyncio.Event()
    second = make_relay(pool, Producer())

    def hear(*_: object) -> None:
        heard.set()

    async with pool.acquire() as listener, running(make_relay(pool, producer)):
        held: bool = await eventually(lambda: hold_lock(pool))
        assert held
        await listener.add_listener("tollkeeper_outbox", hear)
        async with running(second):

            async def pass_on() -> bool:
                second.wake()
                return heard.is_set()

            passed: bool = await eventually(pass_on, timeout_seconds=10)
            assert passed
        await listener.remove_listener("tollkeeper_outbox", hear)


async def test_a_relay_that_waits_for_the_broker_keeps_its_session_and_shows_how_long(pool: Pool) -> None:
    """The server ends the session of a holder that says nothing for eight seconds."""
    producer = Producer()
    async with running(make_relay(pool, producer)):
        await append(pool, b"waits")
        began = time.monotonic()
        await eventually(lambda: OLDEST_UNPUBLISHED._value.get() > 9, timeout_seconds=30)
        assert time.monotonic() - began > 9
        producer.takes.set()
        await eventually(lambda: producer.values == [b"waits"], what="sent once, over the session that waited")
        sent: bool = await eventually(lambda: is_published(pool))
        assert sent


async def is_published(pool: Pool) -> bool:
    return bool(await pool.fetchval("select published_seq = 1 from outbox_cursor where stream = $1", STREAM))


async def test_a_holder_that_says_nothing_frees_its_lock_and_its_rows(pool: Pool) -> None:
    """This is what the server sees of a frozen process."""
    await append(pool, b"locked")
    began = time.monotonic()
    error = await lock_and_say_nothing(pool)
    assert error is not None
    assert is_transient(error)
    assert 7 < time.monotonic() - began < 10
    assert await pool.fetchval("select seq from outbox_head where stream = $1", STREAM) == 2


async def lock_and_say_nothing(pool: Pool) -> Exception | None:
    """Hold a row until another transaction got it; return what became of the holder."""
    try:
        async with transaction(pool) as connection:
            await connection.execute("select from outbox_head where stream = $1 for update", STREAM)
            await append(pool, b"others")
            await connection.execute("select 1")
    except Exception as error:  # noqa: BLE001 - whichever it is
        return error
    return None


async def test_a_clock_that_jumps_drops_nothing(pool: Pool) -> None:
    clock, producer = FixedClock(START_US), taking()
    async with running(make_relay(pool, producer, clock, idle_seconds=0.05)):
        await append(pool, b"kept")
        await eventually(lambda: producer.values == [b"kept"])
        clock.set(START_US + 700 * DAY_US)
        made: bool = await eventually(lambda: has_partition(pool, START_US + 700 * DAY_US))
        assert made
    assert await pool.fetchval("select count(*) from outbox") == 1


async def has_partition(pool: Pool, at_us: int) -> bool:
    return bool(await pool.fetchval("select to_regclass($1) is not null", f"outbox_{day_of(at_us):%Y%m%d}"))


@pytest.mark.parametrize("trusted", [True, False])
async def test_old_days_go_but_never_the_newest_that_hold_rows(pool: Pool, *, trusted: bool) -> None:
    days = 12
    for day in range(days):
        at_us = START_US + day * DAY_US
        async with transaction(pool) as connection:
            await ensure_partitions(connection, "outbox", at_us)
        await append(pool, b"%d" % day, at_us)
    await pool.execute("update outbox_cursor set published_seq = $1", days)

    async def may_destroy() -> bool:
        return trusted

    # A month later: by the calendar alone nothing would be left.
    clock = FixedClock(START_US + 40 * DAY_US)
    async with running(make_relay(pool, taking(), clock, may_destroy=may_destroy)):
        made: bool = await eventually(lambda: has_partition(pool, clock.now_us()))
        assert made
        left = 7 if trusted else days
        settled: bool = await eventually(lambda: count_rows(pool, left))
        assert settled
    async with transaction(pool) as connection:
        assert await resend(connection, STREAM, 1) == left
    assert await pool.fetchval("select published_seq from outbox_cursor where stream = $1", STREAM) == days - left


async def count_rows(pool: Pool, wanted: int) -> bool:
    return bool(await pool.fetchval("select count(*) = $1 from outbox", wanted))


@pytest.mark.parametrize("fault", ["another topic", "its size"])
async def test_a_message_that_can_not_be_sent_stops_its_own_stream_alone(
    make_database: MakeDatabase, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner_url, _ = await make_database("balance")
    pool = await open_pool(owner_url, application="relay-test", size_max=6)
    async with transaction(pool) as connection:
        await ensure_partitions(connection, "outbox", START_US)
    producer = taking()
    relay = make_relay(pool, producer, idle_seconds=0.02, batch_messages_max=3)

    async def append_to(stream: int, value: bytes) -> None:
        async with transaction(pool) as connection:
            await append_messages(connection, [Message(stream, ACCOUNT_EVENTS, None, value)], START_US)

    for number in range(5):
        await append_to(1, b"bad" if number == 1 else b"1-%d" % number)
    if fault == "another topic":
        await pool.execute("update outbox set topic = 'nowhere' where value = 'bad'")
    else:
        await pool.execute("update outbox set value = convert_to(repeat('x', 17000000), 'utf8') where value = 'bad'")
    for number in range(4):
        await append_to(2, b"2-%d" % number)
    monkeypatch.setattr("shared.outbox.STANDING_SECONDS", 0.1)
    async with running(relay):
        await eventually(lambda: holds(producer, 5), what="the other stream and what came before")
        assert producer.values == [b"1-0", b"2-0", b"2-1", b"2-2", b"2-3"]
        [aside] = await pool.fetch("select kind, item from set_aside")
        assert tuple(aside) == ("outbox", "1/2")
        await pool.execute(
            "update outbox set topic = $1, value = 'mended' where seq = 2 and stream = 1", ACCOUNT_EVENTS
        )
        await eventually(lambda: holds(producer, 9), what="the rest, once it is mended")
    assert producer.values[5:] == [b"mended", b"1-2", b"1-3", b"1-4"]
    assert await pool.fetch("select kind, item from set_aside") == []
    await pool.close()


async def test_what_no_broker_takes_is_not_appended(pool: Pool) -> None:
    with pytest.raises(Corruption, match="can't be published"):
        await append(pool, b"x" * 17_000_000)
