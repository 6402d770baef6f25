"""How far reading has come: charging never runs ahead of it.

A worker asks the broker at an instant for the high watermarks of everything that metering takes in. Once the stored
positions of all partitions have passed them, everything that was published by that instant is applied, and the mark
that all workers share moves there. Positions move with the effects of what they pass, in one transaction.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import Gauge

from services.metering.app.guard import ClockGuard
from services.metering.store import reading as reading_store
from services.metering.store.events import load_first_due
from shared.clock import SECOND_US, Clock, format_instant
from shared.db import Connection, Pool, is_transient
from shared.log import get_logger
from shared.watermarks import TopicEnds, Watermarks

logger = get_logger(__name__)

READ_UNTIL = Gauge("tollkeeper_metering_read_until_timestamp_seconds", "Everything published by then is applied")
READ_LAG = Gauge("tollkeeper_metering_read_lag_seconds", "How far that is behind now")
UNREAD = Gauge(
    "tollkeeper_metering_unread_records", "Offsets to apply before read_until can move", ["topic", "partition"]
)

# A test clock stands still and jumps: it is looked at often. The other one is only asked as often as charging needs.
TEST_POLL_SECONDS = 0.01
ASK_SECONDS_MAX = 1.0
APPLIED_POLL_SECONDS = 0.005
APPLIED_POLL_SECONDS_MAX = 0.1
# What is waited for this long is described: it may be an open transaction, or a topic that was made anew meanwhile.
DESCRIBE_SECONDS = 1.0
FAULT_SECONDS = 0.5

Ends = Mapping[str, TopicEnds]


@dataclass(frozen=True, slots=True)
class Unread:
    """A partition that is waited for. `producers` have an open transaction in it, which holds back what follows."""

    topic: str
    partition: int
    position: int
    end: int
    producers: Sequence[int] = ()


class ReadUntil:
    """Moves the mark, and knows what it waits for. `topics` are all that metering takes in."""

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        guard: ClockGuard,
        watermarks: Watermarks,
        *,
        topics: Sequence[str],
        settle_delay_seconds: float,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._guard = guard
        self._watermarks = watermarks
        self._topics = tuple(topics)
        # Charging is `settle_delay_seconds` behind the clock anyway: a mark within that never holds it up.
        self._ask_seconds = min(max(settle_delay_seconds / 2, TEST_POLL_SECONDS), ASK_SECONDS_MAX)
        self._mark_us = 0
        self._unread: list[Unread] = []
        self._fault = ""
        self.moved = asyncio.Event()

    async def run(self) -> None:
        """Move the mark until cancelled."""
        try:
            while True:
                try:
                    await self._follow()
                except Exception as error:
                    if not is_transient(error):
                        raise
                    self._fault = str(error)[:300] or repr(error)
                    logger.warning("read_until.waits", error=self._fault)
                    self._show()
                    await asyncio.sleep(FAULT_SECONDS)
        finally:
            await self._watermarks.close()

    async def _follow(self) -> None:
        while True:
            if self._clock.is_test:
                while self._clock.now_us() == self._mark_us:
                    await asyncio.sleep(TEST_POLL_SECONDS)
            moved = await self.advance()
            if not (moved and self._clock.is_test):
                await asyncio.sleep(self._ask_seconds)

    async def advance(self) -> bool:
        """Move the mark to the present instant, as soon as everything published by now is applied."""
        at_us, jumps = self._clock.now_us(), self._guard.jumps
        await self._wait_applied(await self._watermarks.load(self._topics))
        self._guard.look()
        if self._guard.jumps != jumps:
            # The instant was read on a clock that the ticks would not trust.
            self._fault = ""
            return False
        async with self._pool.acquire(timeout=30) as connection:
            # What was parked until its time is read, but applied only a moment after it is due.
            first_due_us = await load_first_due(connection, at_us)
            known_us = at_us if first_due_us is None else min(at_us, first_due_us)
            self._mark_us = await reading_store.move_read_until(connection, known_us, self._clock.now_us())
        self._fault = "" if known_us == at_us else f"a parked event due since {format_instant(known_us)} is not applied"
        self._show()
        self.moved.set()
        return known_us == at_us

    async def _wait_applied(self, ends: Ends) -> None:
        """Return once every position has passed its end, or when the ends are no longer those of these topics."""
        pause_seconds, described_at = APPLIED_POLL_SECONDS, time.monotonic()
        while True:
            unread = await self._load_unread(ends)
            if not unread:
                self._unread = []
                return
            if time.monotonic() - described_at > DESCRIBE_SECONDS:
                now = await self._watermarks.load(self._topics)
                if _is_void(ends, now):
                    ends = now
                unread = await self._describe(unread)
                described_at = time.monotonic()
                self._unread = unread
                self._show()
            elif not self._unread:
                self._unread = unread
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 1.5, APPLIED_POLL_SECONDS_MAX)

    async def _load_unread(self, ends: Ends) -> list[Unread]:
        async with self._pool.acquire(timeout=30) as connection:
            positions = await reading_store.load_positions(connection, [item.topic_id for item in ends.values()])
        return [
            Unread(topic, number, position, end)
            for topic, item in ends.items()
            for number, end in enumerate(item.ends)
            if (position := positions.get((item.topic_id, number), 0)) < end
        ]

    async def _describe(self, unread: Sequence[Unread]) -> list[Unread]:
        """The same with the producers whose open transactions may be the reason."""
        open_in = await self._watermarks.load_open_transactions([(item.topic, item.partition) for item in unread])
        return [
            Unread(item.topic, item.partition, item.position, item.end, open_in.get((item.topic, item.partition), ()))
            for item in unread
        ]

    def bound_us(self, read_until_us: int) -> int:
        """How far charging may go by a mark. One ahead of the clock was set by a wrong clock and allows nothing."""
        return read_until_us if read_until_us <= self._clock.now_us() + self._guard.clock_error_us else 0

    async def load_bound_us(self, connection: Connection) -> int:
        return self.bound_us(await reading_store.load_read_until(connection))

    async def describe(self, connection: Connection) -> dict[str, object]:
        """For the status: where the mark is, and what it waits for."""
        return {
            "read_until": format_instant(await reading_store.load_read_until(connection)),
            "read_waits_for": {
                "fault": self._fault or None,
                "partitions": [
                    {
                        "topic": item.topic,
                        "partition": item.partition,
                        "position": item.position,
                        "end": item.end,
                        "open_transactions_of": list(item.producers),
                    }
                    for item in self._unread
                ],
            },
        }

    def _show(self) -> None:
        READ_UNTIL.set(self._mark_us / SECOND_US)
        if self._mark_us:
            READ_LAG.set((self._clock.now_us() - self._mark_us) / SECOND_US)
        UNREAD.clear()
        for item in self._unread:
            UNREAD.labels(item.topic, str(item.partition)).set(item.end - item.position)


def _is_void(ends: Ends, now: Ends) -> bool:
    """Whether a topic was made anew, or lost its tail, so that what was waited for never comes."""
    return any(
        now[topic].topic_id != item.topic_id
        or any(end > present for end, present in zip(item.ends, now[topic].ends, strict=False))
        for topic, item in ends.items()
    )
