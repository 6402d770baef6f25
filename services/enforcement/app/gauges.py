"""Keeps the gauges true that are counted from rows, so that a dashboard sees what the status page sees."""

import asyncio
from typing import get_args

from services.enforcement import metrics
from services.enforcement.rules.deletion import CaseState
from services.enforcement.store.halts import load_halts
from services.enforcement.store.status import load_cases_status, load_stops_status
from shared.clock import SECOND_US, Clock
from shared.db import Pool, transaction

REFRESH_SECONDS = 10.0


async def run_gauges(pool: Pool, clock: Clock) -> None:
    """Refresh until cancelled."""
    while True:
        await refresh_gauges(pool, clock.now_us())
        await asyncio.sleep(REFRESH_SECONDS)


async def refresh_gauges(pool: Pool, now_us: int) -> None:
    async with transaction(pool) as connection:
        stops = await load_stops_status(connection)
        cases = await load_cases_status(connection, now_us)
        halts = await load_halts(connection)
    oldest_us = stops.oldest_requested_at_us
    metrics.STOPS_OPEN.set(stops.open)
    metrics.STOPS_UNSENT.set(stops.unsent)
    metrics.STOPS_OPEN_AGE.set(0 if oldest_us is None else (now_us - oldest_us) / SECOND_US)
    for state in get_args(CaseState):
        metrics.CASES.labels(state).set(cases.by_state.get(state, 0))
    overdue_us = cases.oldest_overdue_at_us
    metrics.CASES_OVERDUE_AGE.set(0 if overdue_us is None else (now_us - overdue_us) / SECOND_US)
    metrics.DELETIONS_UNCONFIRMED.set(cases.unconfirmed)
    metrics.DELETIONS_HALTED.set(bool(halts))
