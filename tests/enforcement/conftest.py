"""A running enforcement service on real PostgreSQL and Kafka, beside a balance that the test plays."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from services.enforcement.service import Resources, Service
from services.enforcement.settings import Settings
from shared.clock import FixedClock, parse_instant
from shared.db import open_pool, transaction
from shared.kafka import open_producer
from shared.outbox import keep_topic_layout
from shared.settings import Region
from shared.topics import TOPICS, ensure_topics
from tests.conftest import MakeDatabase
from tests.enforcement.fake_balance import FakeBalance
from tests.enforcement.fake_neighbours import FakeMetering, FakePayment
from tests.enforcement.world import World
from tests.support.topics import prefix_of

START_US = parse_instant("2026-11-01T08:00:00Z")
REGION = Region(currency="VND", opened_at="2020-01-01T00:00:00Z", grace_seconds=86400)

Open = Callable[..., Awaitable[World]]


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(START_US)


@pytest.fixture
def topic_prefix() -> str:
    """Shared by the tests that neither publish nor relay: their topics stay empty, and are made once."""
    return prefix_of("tests/enforcement")


@pytest.fixture
def balance(clock: FixedClock) -> FakeBalance:
    return FakeBalance(clock)


@pytest.fixture
def metering(clock: FixedClock) -> FakeMetering:
    return FakeMetering(clock)


@pytest.fixture
def payment(clock: FixedClock) -> FakePayment:
    return FakePayment(clock)


@pytest.fixture
async def open_world(
    make_database: MakeDatabase,
    kafka_bootstrap: str,
    topic_prefix: str,
    clock: FixedClock,
    balance: FakeBalance,
    metering: FakeMetering,
    payment: FakePayment,
) -> AsyncIterator[Open]:
    """Make worlds, with settings by name; their loops run only when started."""
    await ensure_topics(kafka_bootstrap, topic_prefix)
    _, url = await make_database("enforcement")
    async with contextlib.AsyncExitStack() as stack:

        async def make(**changes: object) -> World:
            values: dict[str, object] = {
                "kafka_bootstrap": kafka_bootstrap,
                "topic_prefix": topic_prefix,
                "regions": {"vn": REGION},
                "shards": 16,
                "enforcement_database_url": url,
                "enforcement_sweep_seconds": 0.2,
                "enforcement_stop_poll_seconds": 0.05,
                "enforcement_deletion_poll_seconds": 0.05,
                "enforcement_deletion_retry_seconds": 0.05,
                "enforcement_catch_up_seconds_max": 2,
            }
            settings = Settings(**{**values, **changes})  # type: ignore[arg-type]  # the test names real settings
            return await stack.enter_async_context(_world(settings, clock, balance, metering, payment))

        yield make


@contextlib.asynccontextmanager
async def _world(
    settings: Settings, clock: FixedClock, balance: FakeBalance, metering: FakeMetering, payment: FakePayment
) -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        pool = await open_pool(settings.enforcement_database_url, application="enforcement-test")
        stack.push_async_callback(asyncio.wait_for, pool.close(), 10)
        async with transaction(pool) as connection:
            partitions = await keep_topic_layout(connection, {topic.name: topic.partitions for topic in TOPICS})
        producer = await open_producer(settings.kafka_bootstrap, settings.topic_prefix + "enforcement-test")
        stack.push_async_callback(producer.stop)
        asked, metered, paid = [
            await stack.enter_async_context(
                httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url=f"http://{name}")
            )
            for name, api in (("balance", balance.api), ("metering", metering.api), ("payment", payment.api))
        ]
        service = Service(settings, clock, Resources(pool, producer, asked, metered, paid, partitions))
        world = World(service, producer, clock, balance, metering, payment)
        stack.push_async_callback(world.close)
        yield world
