"""Composition root: `python -m services.enforcement.main migrate|serve`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop
from fastapi import FastAPI

from services.enforcement.api import create_routes
from services.enforcement.app.catch_up import learn_newest
from services.enforcement.clients.asking import open_client
from services.enforcement.service import OWN_LOOPS, Resources, Service
from services.enforcement.settings import Settings
from shared.clock import Clock, open_clock
from shared.db import SHARED_MIGRATIONS, migrate, open_pool, transaction
from shared.http import create_api, dead_letter_routes, serve, set_aside_routes
from shared.kafka import open_producer
from shared.log import configure_logging
from shared.outbox import keep_topic_layout
from shared.restore_routes import restore_routes
from shared.restores import Recovery, Restores
from shared.supervisor import Supervisor
from shared.topic_reader import TopicReader
from shared.topics import COMMANDS, ENFORCEMENT_EVENTS, TOPICS

MIGRATIONS = (SHARED_MIGRATIONS, Path(__file__).parent / "migrations")


@asynccontextmanager
async def open_service(settings: Settings, clock: Clock) -> AsyncIterator[Service]:
    """Open the database, the broker and the way to balance, and close them afterwards."""
    pool = await open_pool(settings.enforcement_database_url, application="enforcement", ends_when_replaced=True)
    try:
        async with transaction(pool) as connection:
            partitions = await keep_topic_layout(connection, {topic.name: topic.partitions for topic in TOPICS})
        producer = await open_producer(settings.kafka_bootstrap, settings.topic_prefix + "enforcement")
        try:
            async with (
                open_client(settings.balance_url) as balance,
                open_client(settings.metering_url) as metering,
                open_client(settings.payment_url) as payment,
            ):
                yield Service(settings, clock, Resources(pool, producer, balance, metering, payment, partitions))
        finally:
            await producer.stop()
    finally:
        await asyncio.wait_for(pool.close(), 10)


async def run_service(settings: Settings) -> None:
    async with open_service(settings, open_clock(settings.test_clock)) as service:
        await notice_restore(service)
        loops = service.loops()
        loops["api"] = lambda: serve(api, settings.host, settings.enforcement_port)
        supervisor = Supervisor(loops, own=OWN_LOOPS)
        api: FastAPI = create_api(
            "Enforcement",
            readiness=lambda: service.readiness(supervisor.problems),
            failing=supervisor.failing,
            reach=service.relay.reach,
        )
        api.include_router(create_routes(service))
        api.include_router(dead_letter_routes(service.pool, service.consumer))
        api.include_router(restore_routes(service.pool, service.clock, "enforcement"))
        api.include_router(set_aside_routes(service.pool, service.clock))
        await supervisor.run()


async def notice_restore(service: Service) -> None:
    """Before any loop: was this database set back, and what is the newest that balance said of every account?"""
    settings, pool = service.settings, service.pool
    reader = TopicReader(settings.kafka_bootstrap, settings.topic_prefix)
    topics = (COMMANDS, ENFORCEMENT_EVENTS)
    restores = Restores(pool, service.clock, reader, service.relay, service="enforcement", topics=topics)
    service.enforce.incarnation = await restores.run(Recovery())
    await learn_newest(service.enforce, reader)


def main(arguments: list[str]) -> int:
    if arguments not in (["migrate"], ["serve"]):
        print("usage: python -m services.enforcement.main migrate|serve", file=sys.stderr)  # noqa: T201
        return 2
    settings = Settings()
    configure_logging("enforcement", settings.log_level)
    if arguments == ["migrate"]:
        asyncio.run(migrate_all(settings))
    else:
        uvloop.run(run_service(settings))
    return 0


async def migrate_all(settings: Settings) -> None:
    await migrate(settings.enforcement_owner_url, MIGRATIONS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
