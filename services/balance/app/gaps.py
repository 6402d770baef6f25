"""Streams that wait for a missing batch: asked for again at metering, and drained once it is there."""

import asyncio
import time

import httpx

from services.balance import metrics
from services.balance.app.post_charges import ChargePoster
from services.balance.store.streams import load_gaps
from shared.db import Pool, transaction
from shared.log import get_logger

logger = get_logger(__name__)

POLL_SECONDS = 0.5


class GapHealer:
    """Asks metering to send missing batches again, each stream at most once in `pause_seconds`."""

    def __init__(self, pool: Pool, poster: ChargePoster, metering: httpx.AsyncClient, pause_seconds: float) -> None:
        self._pool = pool
        self._poster = poster
        self._metering = metering
        self._pause_seconds = pause_seconds
        self._asked_at: dict[int, float] = {}

    async def run(self) -> None:
        """Heal until cancelled."""
        while True:
            await self.heal()
            await asyncio.sleep(POLL_SECONDS)

    async def heal(self) -> None:
        async with transaction(self._pool) as connection:
            gaps = await load_gaps(connection)
            stopped = await connection.fetchval("select count(*) from charge_stream where stopped_reason is not null")
        metrics.GAPS.set(sum(not gap.is_filled for gap in gaps))
        metrics.STOPPED_STREAMS.set(stopped)
        for gap in gaps:
            if gap.is_filled:
                await self._poster.drain(self._pool, gap.shard)
            else:
                await self._ask(gap.shard, gap.from_seq)

    async def _ask(self, shard: int, from_seq: int) -> None:
        now = time.monotonic()
        if now - self._asked_at.get(shard, float("-inf")) < self._pause_seconds:
            return
        self._asked_at[shard] = now
        logger.error("stream.gap", shard=shard, from_seq=from_seq)
        try:
            answer = await self._metering.post(f"/v1/shards/{shard}/resend", json={"from_seq": from_seq})
            answer.raise_for_status()
        except httpx.HTTPError as error:
            logger.warning("stream.resend_failed", shard=shard, error=repr(error))
