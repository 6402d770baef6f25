"""A poll of records into one transaction: parsed, sorted by shard, applied. This is what the consumer calls."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import asyncpg

from services.metering.app import inventory
from services.metering.app.deletions import apply_deletions
from services.metering.app.lifecycle import Incoming, Rules, apply_lifecycle, to_incoming, waiting_record
from services.metering.app.usage import IncomingUsage, apply_usage, to_incoming_usage
from services.metering.app.work import Prices, open_work
from services.metering.rules.acceptance import NO_LIMITS
from services.metering.store import events as event_store
from services.metering.store.events import EventKey, WaitingEvent
from shared.clock import Clock
from shared.consumer import Poll
from shared.db import Connection, Pool, is_transient, past_races, transaction
from shared.dead_letters import DeadRecord, insert_dead_letters
from shared.errors import RecordError, Refusal, TransientFault
from shared.events.enforcement import DeletionRead, parse_deletion
from shared.events.lifecycle import InventoryObserved, LifecycleEvent, parse_lifecycle
from shared.events.usage import parse_usage
from shared.ids import shard_of
from shared.kafka import Record
from shared.log import get_logger
from shared.set_aside import describe_error, release, set_aside
from shared.topics import ENFORCEMENT_EVENTS, LIFECYCLE, USAGE

logger = get_logger(__name__)

DUE_EVENTS_MAX = 500
# Kind of waiting events that can't be applied.
WAITING = "waiting"
RACES_MAX = 5


@dataclass(slots=True)
class _Parsed:
    """The records of a poll, by what they are."""

    lifecycle: list[Incoming] = field(default_factory=list)
    usage: list[IncomingUsage] = field(default_factory=list)
    inventory: list[tuple[InventoryObserved, Record]] = field(default_factory=list)
    deletions: list[DeletionRead] = field(default_factory=list)


class Intake:
    """Applies polls and waiting events. It keeps nothing that it could not lose."""

    def __init__(self, clock: Clock, prices: Prices, rules: Rules) -> None:
        self._clock = clock
        self._prices = prices
        self.rules = rules

    async def apply(self, connection: Connection, poll: Poll) -> None:
        """Apply a poll in the caller's transaction; what can't be understood is buried."""
        parsed = _Parsed()
        for record in poll.records:
            try:
                self._sort(record, parsed)
            except RecordError as error:
                poll.bury(record, error.reason, error.detail)
        dead = await self._apply(connection, parsed)
        for record, reason, detail in dead:
            poll.bury(record, reason, detail)
        if dead:
            logger.warning("intake.conflicts", records=len(dead), reasons=sorted({item[1] for item in dead}))

    def _sort(self, record: Record, parsed: _Parsed) -> None:
        if record.topic == LIFECYCLE:
            event = parse_lifecycle(record)
            if event is None:
                return
            self._require_region(event.data.region)
            if isinstance(event, LifecycleEvent):
                parsed.lifecycle.append(Incoming(event, record, event.fingerprint()))
            else:
                parsed.inventory.append((event, record))
        elif record.topic == USAGE:
            usage = parse_usage(record)
            if usage is None:
                return
            self._require_region(usage.data.region)
            parsed.usage.append(IncomingUsage(usage, record))
        elif record.topic == ENFORCEMENT_EVENTS:
            deletion = parse_deletion(record)
            if deletion is not None:
                parsed.deletions.append(deletion)

    def _require_region(self, region: str) -> None:
        if region not in self.rules.regions:
            known = ", ".join(sorted(self.rules.regions))
            raise RecordError("unknown region", f"region {region} is not served here, only {known}")

    async def _apply(self, connection: Connection, parsed: _Parsed) -> list[tuple[Record, str, str]]:
        shards = {self._shard(item.event.data.region, item.event.data.tenant_id) for item in parsed.lifecycle}
        shards |= {self._shard(item.usage.data.region, item.usage.data.tenant_id) for item in parsed.usage}
        shards |= {self._shard(event.data.region, event.data.tenant_id) for event in parsed.deletions}
        keys = {item.resource for item in parsed.lifecycle}
        keys |= {(event.data.region, event.subject) for event in parsed.deletions}
        dead: list[tuple[Record, str, str]] = []
        # A source's lock comes before those of shards.
        for page, record in sorted(parsed.inventory, key=_by_source):
            problem = await inventory.take_page(connection, self.rules, page, self._clock.now_us())
            if problem is not None:
                dead.append((record, *problem))
        if shards:
            work = await open_work(
                connection, self._prices, self._clock.now_us(), shards, keys, publishes=self.rules.publishes
            )
            dead += (await apply_lifecycle(work, parsed.lifecycle, self.rules)).dead
            dead += await apply_usage(work, parsed.usage, self.rules)
            await apply_deletions(work, parsed.deletions, self.rules.shards)
            await work.save()
        return dead

    def _shard(self, region: str, tenant_id: str) -> int:
        return shard_of(region, tenant_id, self.rules.shards)

    async def release_due(self, pool: Pool) -> int:
        """Apply parked events whose time has come; return how many. One that can't be applied is set aside."""
        now_us = self._clock.now_us()
        async with transaction(pool) as connection:
            due = await event_store.load_due(connection, WAITING, now_us, DUE_EVENTS_MAX)
        await self._release_each(pool, due)
        return len(due)

    async def _release_each(self, pool: Pool, due: Sequence[WaitingEvent]) -> None:
        """Apply events together; if one of them breaks that, halve them until it stands alone."""
        if not due:
            return
        try:
            await past_races(partial(self._release_together, pool, due))
        except Exception as error:
            if is_transient(error):
                raise
            if len(due) > 1:
                middle = len(due) // 2
                await self._release_each(pool, due[:middle])
                await self._release_each(pool, due[middle:])
                return
            async with transaction(pool) as connection:
                await set_aside(connection, WAITING, _name(due[0]), describe_error(error), self._clock.now_us())

    async def _release_together(self, pool: Pool, due: Sequence[WaitingEvent]) -> None:
        async with transaction(pool) as connection:
            await self._apply_waiting(connection, due, self.rules)
            await release(connection, WAITING, [_name(item) for item in due])

    async def release(self, pool: Pool, key: EventKey) -> str:
        """Apply waiting events by an operator's word, without sanity limits; return what became of them.

        What can't be applied is "dead" from then on: it is mended or closed as such.
        """
        for attempt in range(RACES_MAX):
            try:
                async with transaction(pool) as connection:
                    waiting = await _require_waiting(connection, key)
                    await self._apply_waiting(connection, waiting, replace(self.rules, limits=NO_LIMITS))
                    still = await event_store.find_waiting(connection, key)
            except (TransientFault, asyncpg.UniqueViolationError):
                # Another transaction took the resource or the id meanwhile: look again.
                if attempt + 1 == RACES_MAX:
                    raise
            except Exception as error:
                if isinstance(error, Refusal) or is_transient(error):
                    raise
                await self._bury_waiting(pool, key, describe_error(error))
                return "dead"
            else:
                return still[0].state if still else "applied"
        raise AssertionError("the last attempt returns or raises")

    async def _bury_waiting(self, pool: Pool, key: EventKey, detail: str) -> None:
        async with transaction(pool) as connection:
            for item in await event_store.find_waiting(connection, key):
                if item.topic == ENFORCEMENT_EVENTS:
                    continue
                await event_store.delete_waiting(connection, item.topic, [key])
                await release(connection, WAITING, [_name(item)])
                dead = DeadRecord(waiting_record(item), "can't be applied", f"{key[0]}/{key[1]}: {detail}")
                await insert_dead_letters(connection, [dead], self._clock.now_us())

    async def _apply_waiting(self, connection: Connection, waiting: Sequence[WaitingEvent], rules: Rules) -> None:
        usage = [to_incoming_usage(item) for item in waiting if item.topic == USAGE]
        lifecycle = [to_incoming(item) for item in waiting if item.topic == LIFECYCLE]
        work = await open_work(
            connection,
            self._prices,
            self._clock.now_us(),
            {item.shard for item in waiting},
            {item.resource for item in lifecycle},
            publishes=rules.publishes,
        )
        dead = (await apply_lifecycle(work, lifecycle, rules)).dead
        dead += await apply_usage(work, usage, rules)
        await work.save()
        await insert_dead_letters(connection, [DeadRecord(*item) for item in dead], work.now_us)

    async def report_pending(self, pool: Pool, after_us: int) -> int:
        """Report events that have waited for another one longer than `after_us`; return how many are new.

        Each is decided on once more: what another transaction applied while this one began to wait is seen then.
        """
        async with transaction(pool) as connection:
            late = await event_store.mark_reported(connection, self._clock.now_us() - after_us)
        await self._release_each(pool, [item for item in late if item.topic != ENFORCEMENT_EVENTS])
        for item in late:
            logger.warning("intake.pending", region=item.region, resource=item.resource_id, waits=item.reason)
        return len(late)


async def _require_waiting(connection: Connection, key: EventKey) -> list[WaitingEvent]:
    waiting = await event_store.find_waiting(connection, key)
    if not waiting:
        raise Refusal("waiting-event-not-found", f"no event {key[0]}/{key[1]} waits here", status=404)
    return waiting


def _by_source(item: tuple[InventoryObserved, Record]) -> tuple[str, str]:
    return item[0].data.region, item[0].source


def _name(waiting: WaitingEvent) -> str:
    return f"{waiting.topic}/{waiting.source}/{waiting.event_id}"
