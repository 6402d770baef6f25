"""The tick: charge what is due up to `through = now - settle delay`, for every shard whose turn it is.

Any worker takes any due shard; the shard's row lock is the fence. Lines, sequence numbers and `metered_through` are one
transaction, so a tick that dies has charged nothing and the next one charges the same.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from prometheus_client import Counter, Gauge, Histogram

from services.metering.app.cache import ShardCache, Tables, TickPlan
from services.metering.app.guard import ClockGuard
from services.metering.app.work import FUNCTION_VERSION, Prices, charge_message
from services.metering.batches import BatchHead, encode_parts, encode_tick
from services.metering.settings import Settings
from services.metering.store import resources as resource_store
from services.metering.store import shards as shard_store
from services.metering.store.shards import Shard
from shared.clock import SECOND_US, Clock
from shared.db import Connection, Pool, ensure_partitions, transaction
from shared.log import get_logger
from shared.outbox import Message, Relay, insert_messages

logger = get_logger(__name__)

LINES = Counter("metering_lines", "Charge lines published by ticks")
TICK_SECONDS = Histogram("metering_tick_seconds", "One tick transaction")
CACHE_LOADS = Counter("metering_cache_loads", "Shards read whole because no valid cache was there")
LAG_SECONDS = Gauge("metering_lag_seconds", "How far the last ticked shards were behind when their tick began")

IDLE_SECONDS_MAX = 0.25


class Ticker:
    """Ticks due shards. Its caches are only an economy: each is checked against the row that was just locked."""

    def __init__(
        self, pool: Pool, clock: Clock, prices: Prices, settings: Settings, relay: Relay | None, guard: ClockGuard
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._prices = prices
        self._settings = settings
        self._relay = relay
        self._guard = guard
        self._caches: dict[int, ShardCache] = {}

    def through_us(self) -> int:
        return self._clock.now_us() - round(self._settings.settle_delay_seconds * SECOND_US)

    def due_us(self) -> int:
        """Shards metered to no later than this have a tick due. A test clock stands still: any advance is due."""
        if self._clock.is_test:
            return self.through_us() - 1
        return self.through_us() - round(self._settings.tick_seconds * SECOND_US)

    async def run(self) -> None:
        """Tick until cancelled."""
        pause_seconds = min(IDLE_SECONDS_MAX, max(0.02, self._settings.tick_seconds / 10))
        while True:
            if not await self.tick():
                await asyncio.sleep(pause_seconds)

    async def tick(self) -> int:
        """Tick some due shards in one transaction; answer how many."""
        if await self._guard.halt_if_jumped():
            return 0
        started, jumps = time.monotonic(), self._guard.jumps
        planned: list[tuple[ShardCache, TickPlan]] = []
        touched: list[int] = []
        try:
            async with transaction(self._pool) as connection:
                if await shard_store.load_halt(connection) is not None:
                    return 0
                version = await shard_store.share_prices(connection)
                tables = await self._prices.at(connection, version)
                due = await shard_store.lock_due_shards(
                    connection, self.due_us(), self._settings.metering_tick_shards_max
                )
                if not due:
                    return 0
                touched = [shard.shard for shard in due]
                LAG_SECONDS.set((self.through_us() - min(shard.metered_through_us for shard in due)) / SECOND_US)
                planned = await self._tick_shards(connection, due, tables, version)
                self._guard.require_no_jump_since(jumps)
        except BaseException:
            # The outcome is unknown: nothing in memory may outlive it.
            for number in touched:
                self._caches.pop(number, None)
            raise
        for cache, plan in planned:
            cache.commit(plan, tables)
        if self._relay is not None:
            self._relay.wake()
        LINES.inc(sum(len(plan.lines) for _, plan in planned))
        TICK_SECONDS.observe(time.monotonic() - started)
        return len(planned)

    async def _tick_shards(
        self, connection: Connection, due: Sequence[Shard], tables: Tables, book_version: int
    ) -> list[tuple[ShardCache, TickPlan]]:
        now_us, target_us = self._clock.now_us(), self.through_us()
        head = BatchHead(now_us, FUNCTION_VERSION, book_version)
        rows: list[tuple[int, Message]] = []
        planned: list[tuple[ShardCache, TickPlan]] = []
        moved: list[Shard] = []
        burns: dict[tuple[str, str], tuple[int, int]] = {}
        for shard in due:
            cache = await self._fresh_cache(connection, shard, tables)
            through_us = min(target_us, shard.metered_through_us + self._advance_us())
            await self._heat_expired(connection, cache, through_us)
            plan = cache.plan(through_us, tables)
            batches = _encode(shard, head, cache, plan)
            rows += batches
            moved.append(replace(shard, seq=shard.seq + len(batches), metered_through_us=through_us))
            planned.append((cache, plan))
            burns.update({account: (shard.shard, burn) for account, burn in plan.changed_burns.items()})
        await ensure_partitions(connection, "outbox", now_us)
        await insert_messages(connection, rows, now_us)
        await shard_store.upsert_burns(connection, burns)
        await shard_store.update_shards(connection, moved)
        return planned

    def _advance_us(self) -> int:
        """How far one tick may go: bounded while the sanity limits are on, so that a wild clock does little."""
        if self._settings.sanity_limits == "off":
            return 2**62
        return self._settings.metering_advance_seconds_max * SECOND_US

    async def _fresh_cache(self, connection: Connection, shard: Shard, tables: Tables) -> ShardCache:
        """The shard's cache, brought to the version and `through` of the row that this transaction holds."""
        cache = self._caches.get(shard.shard)
        if cache is None or cache.version > shard.version or cache.through_us > shard.metered_through_us:
            CACHE_LOADS.inc()
            burns = await shard_store.load_burns(connection, shard.shard)
            cache = ShardCache(shard.version, shard.metered_through_us, burns)
            cache.load(
                await resource_store.load_open(connection, shard.shard, shard.metered_through_us),
                tables,
                shard.version,
            )
            self._caches[shard.shard] = cache
            return cache
        if cache.through_us < shard.metered_through_us:
            # Another worker ticked it meanwhile.
            await self._heat_expired(connection, cache, shard.metered_through_us)
            cache.catch_up(shard.metered_through_us, tables, await shard_store.load_burns(connection, shard.shard))
        if cache.version < shard.version:
            changed = await resource_store.load_changed(connection, shard.shard, cache.version)
            cache.load(changed, tables, shard.version)
        return cache

    async def _heat_expired(self, connection: Connection, cache: ShardCache, through_us: int) -> None:
        expired = cache.expired(through_us)
        if expired:
            cache.heat(list((await resource_store.load_resources(connection, expired)).values()))


def _encode(shard: Shard, head: BatchHead, cache: ShardCache, plan: TickPlan) -> list[tuple[int, Message]]:
    """The tick's batches with their sequence numbers: single lines first, then those at rest."""
    batches: list[tuple[int, Message]] = []
    seq = shard.seq + 1
    if plan.parts:
        batches.append((seq, charge_message(shard.shard, encode_parts(shard.shard, seq, head, plan.parts))))
        seq += 1
    for number, value in encode_tick(shard.shard, seq, head, cache.accounts, plan.burns, cache.rated, plan.lines):
        batches.append((number, charge_message(shard.shard, value)))
    return batches
