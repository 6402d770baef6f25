"""A poll of records into one transaction: parsed, sorted by shard, applied. This is what the consumer calls."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import orjson

from services.metering.app import inventory
from services.metering.app.lifecycle import Incoming, Rules, apply_lifecycle, to_incoming, waiting_record
from services.metering.app.usage import IncomingUsage, apply_usage
from services.metering.app.work import Prices, Work, open_work
from services.metering.rules.acceptance import NO_LIMITS
from services.metering.store import events as event_store
from services.metering.store.events import EventKey, WaitingEvent
from shared.clock import Clock
from shared.consumer import Poll
from shared.db import Connection, Pool, transaction
from shared.dead_letters import DeadRecord, insert_dead_letters
from shared.errors import RecordError, Refusal
from shared.events.enforcement import DeletionRead, parse_deletion
from shared.events.lifecycle import InventoryObserved, LifecycleEvent, parse_lifecycle
from shared.events.usage import UsageRecorded, parse_usage
from shared.ids import shard_of
from shared.kafka import Record
from shared.log import get_logger
from shared.topics import ENFORCEMENT_EVENTS, LIFECYCLE, USAGE

logger = get_logger(__name__)

DUE_EVENTS_MAX = 500


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
        self._rules = rules

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
        if region not in self._rules.regions:
            known = ", ".join(sorted(self._rules.regions))
            raise RecordError("unknown region", f"region {region} is not served here, only {known}")

    async def _apply(self, connection: Connection, parsed: _Parsed) -> list[tuple[Record, str, str]]:
        shards = {self._shard(item.event.data.region, item.event.data.tenant_id) for item in parsed.lifecycle}
        shards |= {self._shard(item.usage.data.region, item.usage.data.tenant_id) for item in parsed.usage}
        shards |= {self._shard(event.data.region, event.data.tenant_id) for event in parsed.deletions}
        keys = {item.resource for item in parsed.lifecycle}
        keys |= {(event.data.region, event.subject) for event in parsed.deletions}
        dead: list[tuple[Record, str, str]] = []
        if shards:
            work = await open_work(
                connection, self._prices, self._clock.now_us(), shards, keys, publishes=self._rules.publishes
            )
            dead += (await apply_lifecycle(work, parsed.lifecycle, self._rules)).dead
            dead += await apply_usage(work, parsed.usage, self._rules)
            _apply_deletions(work, parsed.deletions)
            await work.save()
        for page, record in parsed.inventory:
            problem = await inventory.take_page(connection, self._prices, self._rules, page, self._clock.now_us())
            if problem is not None:
                dead.append((record, *problem))
        return dead

    def _shard(self, region: str, tenant_id: str) -> int:
        return shard_of(region, tenant_id, self._rules.shards)

    async def release_due(self, pool: Pool) -> int:
        """Apply parked events whose time has come; answer how many."""
        async with transaction(pool) as connection:
            due = await event_store.load_due(connection, self._clock.now_us(), DUE_EVENTS_MAX)
            if due:
                await self._apply_waiting(connection, due, self._rules)
        return len(due)

    async def release(self, pool: Pool, key: EventKey) -> str:
        """Apply one parked event by an operator's word, without sanity limits; answer what became of it."""
        async with transaction(pool) as connection:
            waiting = await event_store.load_waiting(connection, key)
            if waiting is None:
                raise Refusal("waiting-event-not-found", f"no event {key[0]}/{key[1]} waits here", status=404)
            await self._apply_waiting(connection, [waiting], replace(self._rules, limits=NO_LIMITS))
            still = await event_store.load_waiting(connection, key)
        return "applied" if still is None else still.state

    async def _apply_waiting(self, connection: Connection, waiting: Sequence[WaitingEvent], rules: Rules) -> None:
        usage = [item for item in waiting if _is_usage(item)]
        lifecycle = [to_incoming(item) for item in waiting if not _is_usage(item)]
        work = await open_work(
            connection,
            self._prices,
            self._clock.now_us(),
            {item.shard for item in waiting},
            {item.resource for item in lifecycle},
            publishes=rules.publishes,
        )
        dead = (await apply_lifecycle(work, lifecycle, rules)).dead
        dead += await apply_usage(work, [_to_usage(item) for item in usage], rules)
        await work.save()
        await insert_dead_letters(connection, [DeadRecord(*item) for item in dead], work.now_us)


def _is_usage(waiting: WaitingEvent) -> bool:
    return bool(orjson.loads(waiting.body)["type"] == "service.usage")


def _to_usage(waiting: WaitingEvent) -> IncomingUsage:
    record = replace(waiting_record(waiting), topic=USAGE)
    return IncomingUsage(UsageRecorded.model_validate_json(waiting.body), record, waited=True)


def _apply_deletions(work: Work, events: Sequence[DeletionRead]) -> None:
    """Nothing is charged for a resource after enforcement commanded its deletion, unless that was given up.

    A resource that outlived its deletion existed all the while: what was not charged since the command is charged.
    """
    for event in events:
        resource = work.resources.get((event.data.region, event.data.resource_id or ""))
        if resource is None or resource.tenant_id != event.data.tenant_id:
            logger.warning("intake.commanded_unknown", resource=event.data.resource_id, region=event.data.region)
            continue
        before = resource.history
        commanded_us = _commanded_us(before.commanded_us, event)
        if commanded_us == before.commanded_us:
            continue
        after = replace(before, commanded_us=commanded_us)
        lines = work.corrections(resource.shard, (resource.region, resource.resource_id), before, after)
        work.put(replace(resource, history=after), lines, f"{event.source}/{event.id}")


def _commanded_us(known_us: int | None, event: DeletionRead) -> int | None:
    """The earliest command that was not given up. An account's events come in enforcement's order, repeats included."""
    if event.type == "deletion.abandoned":
        return None if known_us is not None and known_us <= event.time else known_us
    return event.time if known_us is None else min(known_us, event.time)


async def report_pending(pool: Pool, clock: Clock, after_us: int) -> int:
    """Tell of events that have waited for their creation longer than `after_us`; answer how many are new."""
    async with transaction(pool) as connection:
        late = await event_store.mark_reported(connection, clock.now_us() - after_us)
    for item in late:
        logger.warning("intake.pending_without_created", region=item.region, resource=item.resource_id)
    return len(late)
