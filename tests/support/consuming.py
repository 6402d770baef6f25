"""A consumer of one topic that runs beside a test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from shared.clock import SystemClock
from shared.consumer import OffsetConsumer, Poll
from shared.db import Connection, Pool
from shared.topics import CHARGES

Apply = Callable[[Connection, Poll], Awaitable[None]]


@asynccontextmanager
async def consuming(
    pool: Pool, bootstrap: str, prefix: str, apply: Apply, *, lanes: int = 1, records_max: int = 500
) -> AsyncIterator[OffsetConsumer]:
    consumer = OffsetConsumer(
        pool,
        SystemClock(),
        apply,
        bootstrap=bootstrap,
        topic_prefix=prefix,
        topics=(CHARGES,),
        group="test",
        records_max=records_max,
        lanes=lanes,
        wait_ms=20,
    )
    running = asyncio.create_task(consumer.run())
    try:
        yield consumer
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
