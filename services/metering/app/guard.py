"""The clock's guard: a clock that can't be right halts the ticks until an operator says go on."""

import asyncio

from services.metering.settings import Settings
from services.metering.store import shards as shard_store
from shared.clock import SECOND_US, Clock, JumpDetector, format_instant
from shared.db import Pool, transaction
from shared.errors import Refusal, TransientFault
from shared.log import get_logger

logger = get_logger(__name__)

CHECK_SECONDS = 5.0


class ClockGuard:
    """Watches for jumps, for a gap at start, and for a clock that is not PostgreSQL's."""

    def __init__(self, pool: Pool, clock: Clock, settings: Settings) -> None:
        self._pool = pool
        self._clock = clock
        self._settings = settings
        self._detector = JumpDetector(clock)
        self._suspicion: str | None = None
        # How many jumps were seen: who read the clock while this stood still has read a clock that did not jump.
        self.jumps = 0

    @property
    def clock_error_us(self) -> int:
        """How far two right clocks may differ."""
        return round(self._settings.metering_clock_error_seconds_max * SECOND_US)

    async def check_start(self) -> None:
        """Halt if the last tick lies further back than a pause can explain, or ahead of now."""
        if self._settings.sanity_limits == "off":
            return
        async with transaction(self._pool) as connection:
            _, through_us = await shard_store.load_through(connection)
            gap_us = abs(self._clock.now_us() - through_us)
            if gap_us > self._settings.metering_gap_seconds_max * SECOND_US:
                await self._halt(f"the clock is {gap_us // SECOND_US} s away from the last tick at start")

    async def trusts_clock(self) -> bool:
        """Whether the ticks trust the clock."""
        if await self.halt_if_jumped():
            return False
        async with transaction(self._pool) as connection:
            return await shard_store.load_halt(connection) is None

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(CHECK_SECONDS)

    async def check(self) -> None:
        if self._settings.sanity_limits == "off":
            return
        await self.halt_if_jumped()
        if not self._clock.is_test:
            await self._compare_with_database()

    def look(self) -> None:
        """Notice a jump since anybody last looked."""
        if self._settings.sanity_limits == "off":
            return
        jump_us = self._detector.jump_us()
        if abs(jump_us) > self._settings.metering_jump_seconds_max * SECOND_US:
            self.jumps += 1
            self._suspicion = f"the clock jumped by {jump_us // SECOND_US} s beyond monotonic time"

    def require_no_jump_since(self, jumps: int) -> None:
        """Raise TransientFault if the clock jumped since `jumps` was read: what was computed with it is not true."""
        self.look()
        if self.jumps != jumps:
            raise TransientFault("the clock jumped during the tick: nothing of it is charged")

    async def halt_if_jumped(self) -> bool:
        """Halt the ticks if the clock jumped; whether it did. The suspicion stands until the halt is committed."""
        self.look()
        reason = self._suspicion
        if reason is None:
            return False
        await self._halt(reason)
        self._suspicion = None
        return True

    async def _compare_with_database(self) -> None:
        async with self._pool.acquire(timeout=30) as connection:
            theirs_us = await connection.fetchval("select clock_timestamp()")
        error_us = abs(theirs_us - self._clock.now_us())
        if error_us > self._settings.metering_clock_error_seconds_max * SECOND_US:
            await self._halt(f"the clock differs from PostgreSQL's by {error_us // SECOND_US} s")

    async def _halt(self, reason: str) -> None:
        logger.error("tick.halted", reason=reason)
        async with transaction(self._pool) as connection:
            await shard_store.insert_halt(connection, reason, self._clock.now_us())

    async def resume(self, actor: str, reason: str) -> None:
        """An operator's word that the clock is right now. Raises Refusal if nothing is halted."""
        async with transaction(self._pool) as connection:
            ended = await shard_store.resume(connection, actor, reason, self._clock.now_us())
        if not ended:
            raise Refusal("not-halted", "the ticks are not halted")
        logger.warning("tick.resumed", actor=actor, at=format_instant(self._clock.now_us()))
