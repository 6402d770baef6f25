"""Streams that wait for a missing batch: asked for again at metering, and drained once it is there."""

import asyncio
import time
from dataclasses import dataclass

import httpx

from services.balance import metrics
from services.balance.app.post_charges import ChargePoster
from services.balance.store.streams import GAP_ASKED_MAX, Gap, count_asking, forget_gaps, load_gaps
from shared.clock import Clock
from shared.db import Pool, transaction
from shared.each import do_each
from shared.log import get_logger

logger = get_logger(__name__)

POLL_SECONDS = 2.0
PAUSE_SECONDS_MAX = 600.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """A gap as this process saw it last, and when it changed; whoever asked, the pause is for all."""

    gap: Gap
    at_seconds: float


class GapHealer:
    """Asks metering to send missing batches again, first after nothing, then after ever longer pauses.

    The first pause is `pause_seconds`; each asking doubles it. How often a gap was asked for is in the database, so
    that several processes share the pauses.
    """

    def __init__(
        self, pool: Pool, clock: Clock, poster: ChargePoster, metering: httpx.AsyncClient, pause_seconds: float
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._poster = poster
        self._metering = metering
        self._pause_seconds = pause_seconds
        self._seen: dict[int, _Seen] = {}

    async def run(self) -> None:
        """Heal until cancelled."""
        while True:
            await self.heal()
            await asyncio.sleep(POLL_SECONDS)

    async def heal(self) -> None:
        async with transaction(self._pool) as connection:
            gaps = await load_gaps(connection)
            await forget_gaps(connection)
            stopped = await connection.fetchval("select count(*) from charge_stream where stopped_reason is not null")
        metrics.GAPS.set(sum(not gap.is_filled for gap in gaps))
        metrics.STOPPED_STREAMS.set(stopped)
        filled = {str(gap.shard): gap for gap in gaps if gap.is_filled}
        await do_each(self._pool, self._clock, "gap", filled, lambda gap: self._poster.drain(self._pool, gap.shard))
        missing = {gap.shard: gap for gap in gaps if not gap.is_filled}
        self._seen = {shard: seen for shard, seen in self._seen.items() if shard in missing}
        for gap in missing.values():
            await self._ask(gap)

    async def _ask(self, gap: Gap) -> None:
        now_seconds = time.monotonic()
        seen = self._seen.get(gap.shard)
        if seen is None or seen.gap != gap:
            seen = self._seen[gap.shard] = _Seen(gap, now_seconds)
        pause_seconds = min(self._pause_seconds * 2 ** min(gap.asked - 1, 30), PAUSE_SECONDS_MAX) if gap.asked else 0.0
        if now_seconds - seen.at_seconds < pause_seconds:
            return
        async with transaction(self._pool) as connection:
            if not await count_asking(connection, gap, self._clock.now_us()):
                return
        if gap.asked in (0, GAP_ASKED_MAX - 1):
            logger.error("stream.gap", shard=gap.shard, from_seq=gap.from_seq, asked=gap.asked + 1)
        try:
            answer = await self._metering.post(f"/v1/shards/{gap.shard}/resend", json={"from_seq": gap.from_seq})
            answer.raise_for_status()
        except httpx.HTTPError as error:
            logger.warning("stream.resend_failed", shard=gap.shard, error=repr(error))
