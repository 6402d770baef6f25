"""The clock's guard: what a clock says that jumped is no reason to delete; deletions halt until an operator speaks."""

from services.enforcement.settings import Settings
from services.enforcement.store.halts import insert_halt, load_clock_mark, save_clock_mark
from shared.clock import MINUTE_US, SECOND_US, Clock, JumpDetector
from shared.db import Pool, transaction
from shared.errors import TransientFault
from shared.log import get_logger

logger = get_logger(__name__)


class ClockGuard:
    """Watches for jumps, for a gap at start, and for a clock that is not PostgreSQL's. Off on a test clock."""

    def __init__(self, pool: Pool, clock: Clock, settings: Settings) -> None:
        self._pool = pool
        self._clock = clock
        self._settings = settings
        self._detector = JumpDetector(clock)
        self._suspicion: str | None = None
        self._marked_us: int | None = None

    @property
    def _is_off(self) -> bool:
        return self._settings.sanity_limits == "off" or self._clock.is_test

    async def check_start(self) -> None:
        """Halt if the last run lies further from now than a pause can explain: nobody saw the clock in between."""
        if self._is_off:
            return
        async with transaction(self._pool) as connection:
            mark_us = await load_clock_mark(connection)
        gap_us = 0 if mark_us is None else abs(self._clock.now_us() - mark_us)
        if gap_us > self._settings.enforcement_gap_seconds_max * SECOND_US:
            await self._halt(f"the clock is {gap_us // SECOND_US} s away from the last run at start")

    async def check(self) -> None:
        """Halt if the clock jumped or is not PostgreSQL's; else remember that it was believed, once a minute."""
        if self._is_off:
            return
        self._look()
        if self._suspicion is not None:
            await self._halt(self._suspicion)
            self._suspicion = None
        now_us = self._clock.now_us()
        async with transaction(self._pool) as connection:
            theirs_us = await connection.fetchval("select clock_timestamp()")
            if self._marked_us is None or abs(now_us - self._marked_us) >= MINUTE_US:
                await save_clock_mark(connection, now_us)
                self._marked_us = now_us
        error_us = abs(theirs_us - self._clock.now_us())
        if error_us > self._settings.enforcement_clock_error_seconds_max * SECOND_US:
            await self._halt(f"the clock differs from PostgreSQL's by {error_us // SECOND_US} s")

    def require_no_jump(self) -> None:
        """Raise TransientFault if the clock jumped since the last check: what was decided by it is not true."""
        if self._is_off:
            return
        self._look()
        if self._suspicion is not None:
            raise TransientFault(self._suspicion)

    def _look(self) -> None:
        """The suspicion stands until the halt is committed."""
        jump_us = self._detector.jump_us()
        if abs(jump_us) > self._settings.enforcement_clock_jump_seconds_max * SECOND_US:
            self._suspicion = f"the clock jumped by {jump_us // SECOND_US} s beyond monotonic time"

    async def _halt(self, reason: str) -> None:
        async with transaction(self._pool) as connection:
            if await insert_halt(connection, "enforcement", None, reason, self._clock.now_us()):
                logger.error("deletions.halted", reason=reason)
