"""Metering's composition root: `python -m services.metering.main migrate|serve`."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import uvloop

from services.metering.api import MeteringApi
from services.metering.api_events import EventsApi
from services.metering.app.gauges import run_gauges
from services.metering.app.guard import ClockGuard
from services.metering.app.intake import Intake
from services.metering.app.inventory import Inventory
from services.metering.app.lifecycle import Rules
from services.metering.app.read_until import ReadUntil
from services.metering.app.restore import MeteringRecovery
from services.metering.app.tick import Ticker
from services.metering.app.work import Prices
from services.metering.settings import Settings
from services.metering.store.shards import ensure_shards
from shared.clock import MINUTE_US, Clock, open_clock
from shared.consumer import OffsetConsumer
from shared.db import SHARED_MIGRATIONS, Pool, ensure_partitions, migrate, open_pool, transaction
from shared.garbage import collect_seldom
from shared.http import create_api, dead_letter_routes, serve, set_aside_routes
from shared.kafka import open_producer
from shared.log import configure_logging, get_logger
from shared.outbox import Relay, keep_topic_layout
from shared.restore_routes import restore_routes
from shared.restores import Restores
from shared.supervisor import Supervisor
from shared.topic_reader import TopicReader
from shared.topics import CHARGES, ENFORCEMENT_EVENTS, LIFECYCLE, PRICE_BOOKS, TOPICS, USAGE
from shared.watermarks import Watermarks

logger = get_logger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
CONSUMED = (LIFECYCLE, USAGE, ENFORCEMENT_EVENTS)
PENDING_REPORT_US = 10 * MINUTE_US
WAITING_SECONDS = 1.0
LISTING_SECONDS = 5.0
# Events are taken in and questions answered without these: charges that are late are made all the same in the end.
OWN_LOOPS = ("reading", "tick", "waiting", "listings", "gauges")


async def run_migrations(settings: Settings) -> None:
    applied = await migrate(settings.metering_owner_url, [SHARED_MIGRATIONS, MIGRATIONS])
    logger.info("migrated", applied=applied)


async def run_service(settings: Settings) -> None:
    """Wire everything and run until a signal comes."""
    clock = open_clock(settings.test_clock)
    pool = await open_pool(settings.metering_database_url, application="metering", size_max=8, ends_when_replaced=True)
    async with transaction(pool) as connection:
        await ensure_shards(connection, settings.shards, clock.now_us())
        await ensure_partitions(connection, "outbox", clock.now_us())
        partitions = await keep_topic_layout(connection, {topic.name: topic.partitions for topic in TOPICS})
    producer = await open_producer(settings.kafka_bootstrap, f"{settings.topic_prefix}metering")
    try:
        guard = ClockGuard(pool, clock, settings)
        relay = Relay(
            pool,
            producer,
            clock,
            topic_prefix=settings.topic_prefix,
            partitions=partitions,
            may_destroy=guard.trusts_clock,
        )
        prices = Prices()
        reader = TopicReader(settings.kafka_bootstrap, settings.topic_prefix)
        restores = Restores(pool, clock, reader, relay, service="metering", topics=(CHARGES, PRICE_BOOKS))
        await restores.run(_make_recovery(settings, pool, clock, prices, reader))
        events = EventsApi(producer, settings.topic_prefix, settings.regions)
        supervisor = _wire(settings, pool, clock, prices, relay, guard, events)
        await supervisor.run()
    finally:
        await producer.stop()
        await pool.close()


def _make_recovery(
    settings: Settings, pool: Pool, clock: Clock, prices: Prices, reader: TopicReader
) -> MeteringRecovery:
    # Of what is taken in again nothing is new: how much it would debit at once is no reason to doubt it.
    limits = replace(settings.limits, correction_hours_max=None)
    intake = Intake(clock, prices, Rules(settings.regions, settings.shards, limits, publishes=False))
    return MeteringRecovery(
        pool,
        clock,
        prices,
        settings,
        reader=reader,
        intake=intake,
        inventory=Inventory(clock, prices, intake.rules),
        consumer=_make_consumer(settings, pool, clock, intake),
    )


def _make_consumer(settings: Settings, pool: Pool, clock: Clock, intake: Intake) -> OffsetConsumer:
    return OffsetConsumer(
        pool,
        clock,
        intake.apply,
        bootstrap=settings.kafka_bootstrap,
        topic_prefix=settings.topic_prefix,
        topics=CONSUMED,
        group="metering",
        records_max=settings.metering_poll_records_max,
    )


def _make_reading(settings: Settings, pool: Pool, clock: Clock, guard: ClockGuard) -> ReadUntil:
    watermarks = Watermarks(settings.kafka_bootstrap, settings.topic_prefix)
    delay_seconds = settings.settle_delay_seconds
    return ReadUntil(pool, clock, guard, watermarks, topics=CONSUMED, settle_delay_seconds=delay_seconds)


def _wire(
    settings: Settings,
    pool: Pool,
    clock: Clock,
    prices: Prices,
    relay: Relay,
    guard: ClockGuard,
    events: EventsApi,
) -> Supervisor:
    rules = Rules(settings.regions, settings.shards, settings.limits)
    intake = Intake(clock, prices, rules)
    inventory = Inventory(clock, prices, rules)
    reading = _make_reading(settings, pool, clock, guard)
    ticker = Ticker(pool, clock, prices, settings, relay, guard, reading)
    consumer = _make_consumer(settings, pool, clock, intake)

    async def tick() -> None:
        await guard.check_start()
        await ticker.run()

    async def waiting() -> None:
        while True:
            released = await intake.release_due(pool)
            await intake.report_pending(pool, PENDING_REPORT_US)
            await asyncio.sleep(0 if released else WAITING_SECONDS)

    async def listings() -> None:
        while True:
            compared = await inventory.compare_due(pool)
            if not compared:
                await inventory.check_overdue(pool)
                await asyncio.sleep(LISTING_SECONDS)

    def readiness() -> dict[str, str]:
        problems = supervisor.problems()
        if not consumer.assigned.is_set():
            problems["consumer"] = problems.get("consumer", "has no partitions yet")
        return problems

    def failing() -> dict[str, str]:
        return supervisor.failing()

    api = create_api("Tollkeeper metering", readiness=readiness, failing=failing, reach=relay.reach)
    routes = MeteringApi(
        *(pool, clock, prices, settings.regions),
        ticker=ticker,
        intake=intake,
        inventory=inventory,
        guard=guard,
        relay=relay,
        reading=reading,
    )
    api.include_router(routes.router)
    api.include_router(events.router)
    api.include_router(dead_letter_routes(pool, consumer))
    api.include_router(set_aside_routes(pool, clock))
    api.include_router(restore_routes(pool, clock, "metering"))
    supervisor = Supervisor(
        {
            "consumer": consumer.run,
            "reading": reading.run,
            "tick": tick,
            "relay": relay.run,
            "waiting": waiting,
            "listings": listings,
            "gauges": lambda: run_gauges(pool, clock),
            "clock": guard.run,
            "api": lambda: serve(api, settings.host, settings.metering_port),
        },
        own=OWN_LOOPS,
    )
    return supervisor


def main() -> None:
    commands = {"migrate": run_migrations, "serve": run_service}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        raise SystemExit("usage: python -m services.metering.main migrate|serve")
    settings = Settings()
    configure_logging("metering", settings.log_level)
    collect_seldom()
    uvloop.run(commands[sys.argv[1]](settings))


if __name__ == "__main__":
    main()
