"""The tick: charge what is due up to `through = min(now - settle delay, read_until)`, for every shard whose turn it is.

Any worker takes any due shard; the shard's row lock is the fence. Lines, sequence numbers and `metered_through` are one
transaction, so a tick that dies has charged nothing and the next one charges the same. What can't be computed is set
aside: a resource alone, charged up to where it was, or the shard where no resource is the cause.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from services.metering import metrics
from services.metering.app.cache import ShardCache, Tables, TickPlan
from services.metering.app.guard import ClockGuard
from services.metering.app.off_loop import count_events, work_through
from services.metering.app.read_until import ReadUntil
from services.metering.app.work import FUNCTION_VERSION, Prices, charge_message
from services.metering.batches import BatchHead, Window, encode_empty, encode_parts, encode_tick
from services.metering.settings import Settings
from services.metering.snapshots import decode_snapshot
from services.metering.store import resources as resource_store
from services.metering.store import shards as shard_store
from services.metering.store.resources import Resource, Unreadable
from services.metering.store.shards import Shard
from services.metering.store.snapshots import StoredSnapshot, load_snapshot, save_snapshot
from shared.clock import HOUR_US, SECOND_US, Clock, minute_of
from shared.db import Connection, Pool, ensure_partitions, is_transient, past_races, transaction
from shared.errors import Corruption
from shared.log import get_logger
from shared.outbox import Message, Relay, insert_messages
from shared.set_aside import describe_error, list_set_aside, load_held_back, release, set_aside

logger = get_logger(__name__)

# Kinds of what is set aside: a resource that can't be computed, and a shard that can't be ticked for another reason.
TICK = "tick"
TICK_SHARD = "tick-shard"

# Whatever is read wakes the ticker before.
IDLE_SECONDS_MAX = 1.0
# Where no shard is due by the clock, the database is asked no more often.
LOOK_SECONDS = 5.0


class Ticker:
    """Ticks due shards. Its caches are only an economy: each is checked against the row that was just locked.

    Without `reading` nothing is read beside it, and the clock alone says how far it goes.
    """

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        prices: Prices,
        settings: Settings,
        relay: Relay | None,
        guard: ClockGuard,
        reading: ReadUntil | None = None,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._prices = prices
        self._settings = settings
        self._relay = relay
        self._guard = guard
        self._reading = reading
        self._caches: dict[int, ShardCache] = {}
        self._failing = False  # whether any shard is set aside
        # When nothing was due last, up to where the shard furthest behind was metered; 0: not known.
        self._earliest_us = 0
        self._looked_at = 0.0

    def through_us(self) -> int:
        """How far charging may go once everything is read."""
        return self._clock.now_us() - round(self._settings.settle_delay_seconds * SECOND_US)

    async def _target_us(self, connection: Connection) -> int:
        """How far charging may go now."""
        if self._reading is None:
            return self.through_us()
        return min(self.through_us(), await self._reading.load_bound_us(connection))

    def _due_us(self, target_us: int) -> int:
        """Shards metered to no later than this have a tick due. A test clock stands still: any advance is due."""
        if self._clock.is_test:
            return target_us - 1
        return target_us - round(self._settings.tick_seconds * SECOND_US)

    async def run(self) -> None:
        """Tick until cancelled."""
        pause_seconds = min(IDLE_SECONDS_MAX, max(0.02, self._settings.tick_seconds / 10))
        while True:
            if not await self.tick() and not await self._save_idle():
                await self._pause(pause_seconds)

    async def _pause(self, seconds: float) -> None:
        """Wait a while, or until more is read."""
        if self._reading is None:
            await asyncio.sleep(seconds)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._reading.moved.wait()
        self._reading.moved.clear()

    async def tick(self) -> int:
        """Tick some due shards in one transaction; return how many had their turn.

        If one of them breaks that, each is ticked alone, and the one that still fails is set aside.
        """
        if await self._guard.halt_if_jumped() or not self._may_be_due():
            return 0
        touched: list[int] = []
        try:
            return await past_races(partial(self._tick_due, touched))
        except Exception as error:
            if is_transient(error) or not touched:
                raise
            logger.error("tick.isolating", shards=touched, reason=describe_error(error))  # noqa: TRY400
        return sum([await self._tick_alone(number) for number in touched])

    def _may_be_due(self) -> bool:
        """Whether a shard may have a tick due: through never goes back, so nothing is before the earliest is."""
        is_due = self._earliest_us <= self._due_us(self.through_us())
        return is_due or time.monotonic() - self._looked_at > LOOK_SECONDS

    async def _tick_alone(self, number: int) -> int:
        try:
            return await past_races(partial(self._tick_due, [], only=number))
        except Exception as error:
            if is_transient(error):
                raise
            async with transaction(self._pool) as connection:
                await set_aside(connection, TICK_SHARD, str(number), describe_error(error), self._clock.now_us())
            return 1

    async def _tick_due(self, touched: list[int], only: int | None = None) -> int:
        """Tick due shards, or only one; `touched` tells the caller which even if it fails."""
        started, jumps = time.monotonic(), self._guard.jumps
        try:
            async with transaction(self._pool) as connection:
                if await shard_store.load_halt(connection) is not None:
                    return 0
                version = await shard_store.share_prices(connection)
                tables = await self._prices.at(connection, version)
                target_us = await self._target_us(connection)
                due = await self._lock_due(connection, self._due_us(target_us), only)
                if not due:
                    self._earliest_us, _ = await shard_store.load_through(connection)
                    self._looked_at = time.monotonic()
                    return 0
                self._earliest_us = 0
                touched[:] = [shard.shard for shard in due]
                planned = await self._tick_shards(connection, due, tables, version, target_us)
                self._guard.require_no_jump_since(jumps)
        except BaseException:
            # The outcome is unknown: nothing in memory may outlive it.
            for number in touched:
                self._caches.pop(number, None)
            if only is not None:
                self._caches.pop(only, None)
            raise
        for cache, plan in planned:
            cache.commit(plan, tables)
        if self._relay is not None:
            self._relay.wake()
        metrics.LINES.inc(sum(len(plan.lines) for _, plan in planned))
        metrics.TICK_SECONDS.observe(time.monotonic() - started)
        for number, (cache, _) in zip(touched, planned, strict=True):
            if cache.is_worth_saving(idle=False):
                await self._save(number, cache)
        return len(planned)

    async def _lock_due(self, connection: Connection, due_us: int, only: int | None) -> list[Shard]:
        if only is not None:
            return [
                item
                for item in (await shard_store.lock_shards(connection, [only])).values()
                if item.metered_through_us <= due_us
            ]
        failing = await list_set_aside(connection, kind=TICK_SHARD, limit=10_000)
        self._failing = bool(failing)
        left_out = [int(item.item) for item in failing if item.is_held(self._clock.now_us())]
        return await shard_store.lock_due_shards(connection, due_us, self._settings.metering_tick_shards_max, left_out)

    async def _tick_shards(
        self, connection: Connection, due: Sequence[Shard], tables: Tables, book_version: int, target_us: int
    ) -> list[tuple[ShardCache, TickPlan]]:
        now_us = self._clock.now_us()
        head = BatchHead(now_us, FUNCTION_VERSION, book_version)
        rows: list[tuple[int, Message]] = []
        planned: list[tuple[ShardCache, TickPlan]] = []
        moved: list[Shard] = []
        burns: dict[tuple[str, str], tuple[int, int]] = {}
        for shard in due:
            cache = await self._fresh_cache(connection, shard, tables)
            through_us = self._through_us(shard, target_us)
            await self._heat_expired(connection, cache, through_us)
            retried = await self._load_retried(connection, cache)
            events = count_events(cache.hot.values()) + count_events(retried)
            plan = await work_through(events, partial(cache.plan, through_us, tables, retried))
            batches = _encode(shard, head, cache, plan)
            rows += batches
            version = await self._set_aside(connection, shard, plan)
            moved.append(replace(shard, seq=shard.seq + len(batches), version=version, metered_through_us=through_us))
            planned.append((cache, plan))
            burns.update({account: (shard.shard, burn) for account, burn in plan.changed_burns.items()})
        await ensure_partitions(connection, "outbox", now_us)
        await insert_messages(connection, rows, now_us)
        await shard_store.upsert_burns(connection, burns)
        await shard_store.update_shards(connection, moved)
        if self._failing:
            await release(connection, TICK_SHARD, [str(shard.shard) for shard in due])
        return planned

    async def _load_retried(self, connection: Connection, cache: ShardCache) -> list[Resource | Unreadable]:
        """The resources that were set aside and are to be tried again."""
        if not cache.aside:
            return []
        names = {_name(key): key for key in sorted(cache.aside)}
        held = await load_held_back(connection, TICK, list(names), self._clock.now_us())
        keys = [key for name, key in names.items() if name not in held]
        return await resource_store.load_resources(connection, keys) if keys else []

    async def _set_aside(self, connection: Connection, shard: Shard, plan: TickPlan) -> int:
        """Set aside what could not be computed, charged up to where the shard was; return the shard's version."""
        if not plan.failed and not plan.recovered:
            return shard.version
        version = shard.version + 1
        for key, reason in plan.failed.items():
            await set_aside(connection, TICK, _name(key), reason, self._clock.now_us())
        await resource_store.set_charged_through(
            connection, shard.shard, version, list(plan.failed), shard.metered_through_us
        )
        await resource_store.set_charged_through(connection, shard.shard, version, plan.recovered, None)
        await release(connection, TICK, [_name(key) for key in plan.recovered])
        return version

    def _through_us(self, shard: Shard, target_us: int) -> int:
        """Up to where a shard is ticked now.

        A tick ends with the last full minute, if it comes to one: then the next ones lie within a minute each, and
        their lines need not say when they were used. A test goes exactly where its clock stands.
        """
        through_us = min(target_us, shard.metered_through_us + self._advance_us())
        if self._clock.is_test or minute_of(through_us) <= shard.metered_through_us:
            return through_us
        return minute_of(through_us)

    def _advance_us(self) -> int:
        """How far one tick may go: bounded while the sanity limits are on, so that a wild clock does little."""
        if self._settings.sanity_limits == "off":
            return 2**62
        return self._settings.metering_advance_seconds_max * SECOND_US

    async def _fresh_cache(self, connection: Connection, shard: Shard, tables: Tables) -> ShardCache:
        """The shard's cache, brought to the version and `through` of the row that this transaction holds."""
        cache = self._caches.get(shard.shard)
        if cache is None or cache.version > shard.version or cache.through_us > shard.metered_through_us:
            cache = await self._snapshot(connection, shard, tables) or await self._read_whole(connection, shard, tables)
            self._caches[shard.shard] = cache
        if cache.through_us < shard.metered_through_us:
            # Another worker ticked it meanwhile.
            await self._heat_expired(connection, cache, shard.metered_through_us)
            cache.catch_up(shard.metered_through_us, tables, await shard_store.load_burns(connection, shard.shard))
        if cache.version < shard.version:
            changed = await resource_store.load_changed(connection, shard.shard, cache.version)
            await _load(cache, changed, tables, shard.version)
        return cache

    async def _read_whole(self, connection: Connection, shard: Shard, tables: Tables) -> ShardCache:
        metrics.CACHE_LOADS.inc()
        cache = ShardCache(
            shard.version, shard.metered_through_us, await shard_store.load_burns(connection, shard.shard)
        )
        resources = await resource_store.load_open(connection, shard.shard, shard.metered_through_us)
        await _load(cache, resources, tables, shard.version)
        return cache

    async def _snapshot(self, connection: Connection, shard: Shard, tables: Tables) -> ShardCache | None:
        """The cache that some worker last saved of the shard, as it was then."""
        stored = await load_snapshot(connection, shard, FUNCTION_VERSION)
        if stored is None:
            return None
        try:
            snapshot = decode_snapshot(stored.value)
        except Corruption as error:
            logger.error("snapshot.unreadable", shard=shard.shard, reason=str(error))  # noqa: TRY400
            return None
        burns = await shard_store.load_burns(connection, shard.shard)
        cache = ShardCache.of_snapshot(stored.version, stored.through_us, burns, snapshot)
        if snapshot.unrested:
            unrested = await resource_store.load_resources(connection, snapshot.unrested)
            await _load(cache, unrested, tables, stored.version)
        return cache

    async def _save_idle(self) -> bool:
        """Save one snapshot if any is worth it while nothing is due; answers whether there was one."""
        for number, cache in self._caches.items():
            if cache.is_worth_saving(idle=True):
                await self._save(number, cache)
                return True
        return False

    async def _save(self, number: int, cache: ShardCache) -> None:
        """Spare new workers what this one read since the last snapshot. An economy that fails costs no tick."""
        try:
            stored = StoredSnapshot(cache.version, cache.through_us, cache.save())
            async with transaction(self._pool) as connection:
                await save_snapshot(connection, number, FUNCTION_VERSION, stored)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next snapshot comes with the next changes
            logger.warning("snapshot.not_saved", shard=number, reason=describe_error(error))

    async def _heat_expired(self, connection: Connection, cache: ShardCache, through_us: int) -> None:
        expired = cache.expired(through_us)
        if expired:
            cache.heat(await resource_store.load_resources(connection, expired))


async def _load(cache: ShardCache, resources: Sequence[Resource | Unreadable], tables: Tables, version: int) -> None:
    await work_through(count_events(resources), partial(cache.load, resources, tables, version))


def _name(key: tuple[str, str]) -> str:
    """A resource as an item that is set aside."""
    return f"{key[0]}/{key[1]}"


def _encode(shard: Shard, head: BatchHead, cache: ShardCache, plan: TickPlan) -> list[tuple[int, Message]]:
    """The tick's batches with their sequence numbers: single lines first, then those at rest.

    The last one says up to where the shard is charged. A shard with nothing to charge says it at first, and once an
    hour.
    """
    number, from_us, through_us = shard.shard, shard.metered_through_us, plan.through_us
    of_parts = None if len(plan.lines) else through_us
    batches = list(encode_parts(number, shard.seq + 1, head, plan.parts, of_parts))
    if len(plan.lines):
        seq, window = shard.seq + len(batches) + 1, Window(from_us, through_us)
        batches += encode_tick(number, seq, head, cache.accounts, plan.burns, cache.rated, plan.lines, window)
    elif not batches and (not shard.seq or from_us // HOUR_US < through_us // HOUR_US):
        batches.append((shard.seq + 1, encode_empty(number, shard.seq + 1, head, through_us)))
    return [(seq, charge_message(number, value)) for seq, value in batches]
