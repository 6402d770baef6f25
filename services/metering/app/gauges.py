"""Keeps the gauges true that are counted from rows, so that a dashboard sees what the status page sees."""

import asyncio

from services.metering import metrics
from services.metering.store import contradictions as contradiction_store
from services.metering.store import events as event_store
from services.metering.store import shards as shard_store
from services.metering.store import status as status_store
from services.metering.store import usage as usage_store
from shared.clock import SECOND_US, Clock
from shared.db import Pool, transaction
from shared.set_aside import count_set_aside

REFRESH_SECONDS = 10.0


async def run_gauges(pool: Pool, clock: Clock) -> None:
    """Refresh until cancelled."""
    while True:
        await refresh_gauges(pool, clock.now_us())
        await asyncio.sleep(REFRESH_SECONDS)


async def refresh_gauges(pool: Pool, now_us: int) -> None:
    async with transaction(pool) as connection:
        status = await status_store.load_status(connection)
        waiting = await event_store.count_waiting(connection)
        contradictions = await contradiction_store.count_contradictions(connection)
        unpriced = await usage_store.count_unpriced(connection)
        unpriced_resources = await usage_store.count_unpriced_resources(connection)
        through_us, _ = await shard_store.load_through(connection)
        await count_set_aside(connection)
    metrics.LAG_SECONDS.set(max(0, now_us - through_us) / SECOND_US)
    metrics.HALTED.set(status["halted"] is not None)
    metrics.UNPUBLISHED.set(status["unpublished"])
    metrics.DEAD.set(status["dead"])
    metrics.UNPRICED.set(unpriced)
    metrics.UNPRICED_RESOURCES.set(unpriced_resources)
    for state, events in waiting.items():
        metrics.WAITING.labels(state).set(events)
    metrics.CONTRADICTIONS.clear()
    for kind, items in contradictions.items():
        metrics.CONTRADICTIONS.labels(kind).set(items)
