"""Lifecycle events in: deduplicated, admitted, applied, and what they change published, in one transaction."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import orjson

from services.metering.app.work import ResourceKey, Work
from services.metering.rules.acceptance import Decision, Limits, admit, admit_correction
from services.metering.rules.charge import charge, hourly_price
from services.metering.rules.history import CREATED, Event, History, comes_after
from services.metering.store import events as event_store
from services.metering.store.events import EventKey, WaitingEvent
from services.metering.store.resources import Resource
from shared.clock import SECOND_US
from shared.db import Connection
from shared.events.lifecycle import LifecycleEvent
from shared.ids import content_hash, shard_of
from shared.kafka import Record
from shared.settings import Region
from shared.topics import LIFECYCLE


@dataclass(frozen=True, slots=True)
class Incoming:
    """An event to apply, and the record that brought it (or that it would be dead as)."""

    event: LifecycleEvent
    record: Record
    fingerprint: bytes
    waited: bool = False

    @property
    def key(self) -> EventKey:
        return self.event.source, self.event.id

    @property
    def resource(self) -> ResourceKey:
        return self.event.data.region, self.event.subject


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides about an event besides itself.

    `publishes` is False only while a restore is caught up with (app/restore.py): histories change in silence then.
    """

    regions: Mapping[str, Region]
    shards: int
    limits: Limits
    publishes: bool = True


@dataclass(slots=True)
class Outcome:
    """What became of the events of one transaction, by number, and which are dead and why."""

    applied: int = 0
    duplicates: int = 0
    waiting: list[WaitingEvent] = field(default_factory=list)
    done_waiting: list[EventKey] = field(default_factory=list)
    fingerprints: dict[EventKey, bytes] = field(default_factory=dict)
    dead: list[tuple[Record, str, str]] = field(default_factory=list)


async def apply_lifecycle(work: Work, incoming: Sequence[Incoming], rules: Rules) -> Outcome:
    """Apply events to the resources of the work's locked shards. A `created` goes first and releases what waited."""
    outcome = Outcome()
    known = await event_store.load_fingerprints(work.connection, {item.key for item in incoming if not item.waited})
    for item in sorted(await _with_pending(work, incoming), key=_created_first):
        if not item.waited and _is_known(item, known, outcome):
            continue
        _apply_one(work, item, rules, outcome)
    await _save(work.connection, outcome)
    return outcome


def _created_first(item: Incoming) -> bool:
    return item.event.type not in CREATED


async def _with_pending(work: Work, incoming: Sequence[Incoming]) -> list[Incoming]:
    """The events, and those that waited for the creations among them."""
    created = {item.resource for item in incoming if item.event.type in CREATED}
    fresh = created - work.resources.keys()
    if not fresh:
        return list(incoming)
    pending = await event_store.load_pending(work.connection, fresh)
    return [*incoming, *(to_incoming(item) for item in pending)]


def to_incoming(waiting: WaitingEvent) -> Incoming:
    """A waiting event as it is applied again."""
    event = LifecycleEvent.model_validate_json(waiting.body)
    return Incoming(event, waiting_record(waiting), event.fingerprint(), waited=True)


def _is_known(item: Incoming, known: dict[EventKey, bytes], outcome: Outcome) -> bool:
    """Whether the same (source, id) came before: the same again is dropped, other content is dead."""
    before = known.get(item.key)
    if before is None:
        known[item.key] = item.fingerprint
        return False
    if before == item.fingerprint:
        outcome.duplicates += 1
    else:
        detail = f"{item.event.source}/{item.event.id} was accepted with other content; give the new fact a new id"
        outcome.dead.append((item.record, "same_id_other_content", detail))
    return True


def to_rules(event: LifecycleEvent) -> Event:
    data = event.data
    return Event(
        event.source,
        event.id,
        event.type,
        event.time,
        data.sequence,
        data.gpu_sku,
        data.gpu_count,
        event.storage_gb,
        data.run_id,
    )


def _apply_one(work: Work, item: Incoming, rules: Rules, outcome: Outcome) -> None:
    resource = work.resources.get(item.resource)
    region = rules.regions[item.event.data.region]
    fact = to_rules(item.event)
    decision = admit(
        None if resource is None else resource.history,
        None if resource is None else resource.tenant_id,
        fact,
        item.event.data.tenant_id,
        work.now_us,
        region.opened_at_us,
        rules.limits,
    )
    if decision.outcome == "apply":
        decision = _change(work, item, fact, resource, rules)
    _note(work, item, decision, rules, outcome)


def _change(work: Work, item: Incoming, fact: Event, known: Resource | None, rules: Rules) -> Decision:
    """Put the event into the resource's history, unless its correction is too large to believe."""
    data = item.event.data
    before = None if known is None else known.history
    after = (
        _begin(fact, rules.regions[data.region]) if before is None else replace(before, events=(*before.events, fact))
    )
    shard = shard_of(data.region, data.tenant_id, rules.shards) if known is None else known.shard
    key = data.region, item.event.subject
    # Most events tell of what is not charged yet.
    later = before is not None and comes_after(before, [fact], work.through_us(shard))
    lines = () if later else work.corrections(shard, key, before, after)
    if lines and rules.limits.correction_hours_max is not None:
        hourly = hourly_price(charge(after, work.table(data.region), work.through_us(shard)))
        decision = admit_correction(lines, hourly, rules.limits)
        if decision.outcome != "apply":
            return decision
    admission_id = data.admission_id if known is None else known.admission_id
    resource = Resource(data.region, item.event.subject, data.tenant_id, shard, 0, after, None, admission_id)
    work.put(resource, lines, f"{item.event.source}/{item.event.id}")
    work.note_unpriced(resource)
    return Decision("apply")


def _begin(created: Event, region: Region) -> History:
    """A resource's first history. Where inventory is declared its creation is the first confirmation."""
    bound_us = region.inventory_bound_seconds * SECOND_US
    return History(
        (created,),
        region.slot_seconds,
        confirmed_until_us=created.time_us + bound_us if region.declares_inventory else None,
    )


def _note(work: Work, item: Incoming, decision: Decision, rules: Rules, outcome: Outcome) -> None:
    if decision.outcome in ("apply", "duplicate"):
        outcome.applied += decision.outcome == "apply"
        outcome.duplicates += decision.outcome == "duplicate"
    elif decision.outcome in ("pending", "parked"):
        outcome.waiting.append(_waiting(work, item, decision, rules))
    else:
        outcome.dead.append((item.record, decision.reason or decision.outcome, _advice(item, decision)))
    if item.waited and decision.outcome not in ("pending", "parked"):
        outcome.done_waiting.append(item.key)
    if not item.waited and decision.outcome in ("apply", "pending", "parked"):
        outcome.fingerprints[item.key] = item.fingerprint


def _advice(item: Incoming, decision: Decision) -> str:
    event = item.event
    advice = {
        "other_tenant": "the resource belongs to the tenant of its first created event",
        "second_created": "a resource has one life; a new one needs a new id",
        "wrong_family": "container and volume events of one id do not mix",
        "before_region_opened": "the region sold nothing at that time",
        "far_future": "its time is more than a day ahead; correct the producer's clock",
        "same_id_other_content": "the id was accepted with other content; give the new fact a new id",
    }.get(decision.reason or "", "mend the event and replay it")
    return f"{event.type} of {event.subject}: {advice}"


def _waiting(work: Work, item: Incoming, decision: Decision, rules: Rules) -> WaitingEvent:
    event = item.event
    return WaitingEvent(
        event.source,
        event.id,
        decision.outcome,
        decision.reason or "before its resource's creation",
        decision.until_us,
        event.data.region,
        event.subject,
        event.data.tenant_id,
        shard_of(event.data.region, event.data.tenant_id, rules.shards),
        event.model_dump_json(exclude_none=True).encode(),
        work.now_us,
    )


async def _save(connection: Connection, outcome: Outcome) -> None:
    await event_store.insert_fingerprints(connection, outcome.fingerprints)
    if outcome.waiting:
        await event_store.upsert_waiting(connection, outcome.waiting)
    if outcome.done_waiting:
        await event_store.delete_waiting(connection, outcome.done_waiting)


def waiting_record(waiting: WaitingEvent) -> Record:
    """The record that a waiting event becomes if it turns out to be dead: its position is derived from its id."""
    name = content_hash(orjson.dumps([waiting.source, waiting.event_id]))
    return Record(LIFECYCLE, uuid.UUID(int=0), 0, int.from_bytes(name[:7], "big"), None, waiting.body)
