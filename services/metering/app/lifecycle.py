"""Lifecycle events in: deduplicated, admitted, applied, and what they change published, in one transaction.

Events are decided on one after another as they came; what they do to a resource is charged once, by its history before
and after all of them. Only if that would debit more than can be believed are its events charged one by one.
"""

import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import orjson

from services.metering.app.deletions import WaitingDeletion, read_waiting_deletion, when_deleted
from services.metering.app.off_loop import PIECES_AT_ONCE, Steps, walk
from services.metering.app.work import ResourceKey, Work
from services.metering.metrics import EVENTS_WITHOUT_EFFECT
from services.metering.rules.acceptance import RETRACTED, Amendment, Decision, Limits, admit, admit_correction
from services.metering.rules.charge import charge, hourly_price
from services.metering.rules.history import CREATED, Draft, Event, History, comes_after
from services.metering.rules.lines import Line
from services.metering.store import contradictions as contradiction_store
from services.metering.store import events as event_store
from services.metering.store import inventory as inventory_store
from services.metering.store.contradictions import Contradiction
from services.metering.store.events import EventKey, WaitingEvent
from services.metering.store.resources import Resource
from services.metering.store.restore import load_owners
from shared.clock import SECOND_US
from shared.events.lifecycle import LifecycleEvent
from shared.ids import content_hash, shard_of
from shared.kafka import Record
from shared.settings import Region
from shared.topics import ENFORCEMENT_EVENTS, LIFECYCLE

CAUSES_MAX = 3

ADVICE = {
    "other_tenant": "the resource belongs to the tenant of its first created event",
    "second_created": "a resource has one life; a new one needs a new id",
    "wrong_family": "container and volume events of one id do not mix",
    "before_region_opened": "the region sold nothing at that time",
    "far_future": "its time is more than a day ahead; correct the producer's clock",
    "same_id_other_content": "the id was accepted with other content; give the new fact a new id",
    "already_replaced": "the event that it replaces was replaced before; replace the newer one",
    "replaces_another_resource": "the event that it replaces is one of another resource",
    "resource_unreadable": "its stored history can't be read; mend that and replay this",
    "replaces_creation": "a creation is replaced by a creation only; a resource that never was is deleted as created",
}


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

    @property
    def target(self) -> EventKey | None:
        return None if self.event.data.replaces is None else self.event.data.replaces.key

    @property
    def cause(self) -> str:
        """What a correction is published with: the event, and the one that it replaces."""
        name = f"{self.event.source}/{self.event.id}"
        if self.target is None:
            return name
        verb = "retracts" if self.event.type == RETRACTED else "replaces"
        return f"{name} {verb} {self.target[0]}/{self.target[1]}"


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
    waiting: dict[EventKey, WaitingEvent] = field(default_factory=dict)
    done_waiting: list[EventKey] = field(default_factory=list)
    fingerprints: dict[EventKey, bytes] = field(default_factory=dict)
    dead: list[tuple[Record, str, str]] = field(default_factory=list)
    contradictions: list[Contradiction] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database knows about the events of one transaction."""

    fingerprints: dict[EventKey, bytes]  # of applied events, incoming ones and those that are replaced
    waiting: dict[EventKey, bytes]
    pending: dict[ResourceKey, list[Incoming]]
    deletions: dict[ResourceKey, list[WaitingDeletion]]
    amendments: dict[EventKey, list[Incoming]]
    owners: dict[ResourceKey, str]  # who was charged for resources before a restore took their creations away


async def apply_lifecycle(work: Work, incoming: Sequence[Incoming], rules: Rules) -> Outcome:
    """Apply events to the resources of the work's locked shards, and what waited for them."""
    if not incoming:
        return Outcome()
    known = await _load_known(work, incoming, is_restoring=not rules.publishes)
    taking = await walk(_take_all(_Taking(work, rules, known), incoming), _longest(work, incoming, known))
    await _save(work, taking.outcome, taking.changed, known)
    return taking.outcome


def _longest(work: Work, incoming: Sequence[Incoming], known: _Known) -> int:
    """How many events the longest history can have after these, and what waited for them."""
    events = Counter(item.resource for item in incoming)
    events.update({key: len(items) for key, items in known.pending.items()})
    events.update({key: len(resource.history.events) for key, resource in work.resources.items()})
    return max(events.values(), default=0)


def _take_all(taking: "_Taking", incoming: Sequence[Incoming]) -> "Steps[_Taking]":
    """Decide on all; once more where resources have corrections that can't be believed, those event by event."""
    unbelievable = yield from taking.take_all(incoming)
    if not unbelievable:
        return taking
    again = taking.begin_again(unbelievable)
    unbelievable = yield from again.take_all(incoming)
    assert not unbelievable, f"events of other resources changed what {unbelievable} cost"
    return again


async def _load_known(work: Work, incoming: Sequence[Incoming], *, is_restoring: bool) -> _Known:
    created = {item.resource for item in incoming if item.event.type in CREATED}
    pending: dict[ResourceKey, list[Incoming]] = {}
    deletions: dict[ResourceKey, list[WaitingDeletion]] = {}
    for waiting in await event_store.load_pending(work.connection, created - work.resources.keys()):
        resource = waiting.region, waiting.resource_id
        if waiting.topic == LIFECYCLE:
            pending.setdefault(resource, []).append(to_incoming(waiting))
        else:
            deletions.setdefault(resource, []).append(read_waiting_deletion(waiting))
    items = [*incoming, *(item for found in pending.values() for item in found)]
    amendments = await _load_amendments(work, {item.key for item in items})
    items += [item for found in amendments.values() for item in found]
    keys = {item.key for item in items} | {item.target for item in items if item.target is not None}
    waiting_keys = await event_store.load_waiting_fingerprints(work.connection, LIFECYCLE, keys)
    fingerprints = await event_store.load_fingerprints(work.connection, keys)
    owners = await load_owners(work.connection, created - work.resources.keys()) if is_restoring and created else {}
    return _Known(fingerprints, waiting_keys, pending, deletions, amendments, owners)


async def _load_amendments(work: Work, targets: Collection[EventKey]) -> dict[EventKey, list[Incoming]]:
    """What waits for these events, and for those amendments in turn."""
    found: dict[EventKey, list[Incoming]] = {}
    while targets:
        loaded = [to_incoming(item) for item in await event_store.load_amendments(work.connection, LIFECYCLE, targets)]
        for item in loaded:
            assert item.target is not None
            found.setdefault(item.target, []).append(item)
        targets = {item.key for item in loaded} - found.keys()
    return found


def to_incoming(waiting: WaitingEvent) -> Incoming:
    """A waiting event as it is applied again."""
    event = LifecycleEvent.model_validate_json(waiting.body)
    return Incoming(event, waiting_record(waiting), waiting.fingerprint, waited=True)


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


@dataclass(slots=True)
class _Open:
    """A resource whose history is being written, and the events that did it."""

    draft: Draft
    known: Resource | None
    first: LifecycleEvent
    causes: list[str] = field(default_factory=list)


class _Taking:
    """Decides on events one after another, as they came. A resource is charged once for all of its events.

    Those of the resources `apart` are charged one by one.
    """

    def __init__(self, work: Work, rules: Rules, known: _Known, apart: frozenset[ResourceKey] = frozenset()) -> None:
        self._work = work
        self._rules = rules
        self._known = known
        self._apart = apart
        self.outcome = Outcome()
        self._claims = {**known.fingerprints, **known.waiting}
        self._applied = dict(known.fingerprints)
        self._open: dict[ResourceKey, _Open] = {}
        self._pending = {key: list(items) for key, items in known.pending.items()}
        self._amendments = {key: list(items) for key, items in known.amendments.items()}
        # Resources whose histories were changed, with what they were before.
        self.changed: dict[ResourceKey, Resource | None] = {}

    def begin_again(self, apart: frozenset[ResourceKey]) -> "_Taking":
        """The same task, from its beginning: this one has written nothing."""
        return _Taking(self._work, self._rules, self._known, apart)

    def take_all(self, incoming: Iterable[Incoming]) -> Steps[frozenset[ResourceKey]]:
        """Resources whose events, taken together, would debit more than can be believed; none: all is written."""
        # Last in, first out: what an event releases follows it at once.
        queue = list(reversed(list(incoming)))
        taken = 0
        while queue:
            released = self._take(queue.pop())
            queue += reversed(released)
            taken += 1
            if taken % PIECES_AT_ONCE == 0:
                yield
        return (yield from self._write_all())

    def _take(self, item: Incoming) -> list[Incoming]:
        """Decide on an event; return the waiting ones that it releases."""
        if not item.waited and self._is_known(item):
            return []
        unreadable = item.resource in self._work.unreadable
        decision = Decision("dead", "resource_unreadable") if unreadable else self._decide_as_before(item)
        self._note(item, decision)
        if decision.outcome != "apply":
            return []
        released = self._amendments.pop(item.key, [])
        if item.event.type in CREATED:
            released = [*self._pending.pop(item.resource, []), *released]
        return released

    def _is_known(self, item: Incoming) -> bool:
        """Whether the same (source, id) came before: the same again is dropped, other content is dead."""
        before = self._claims.get(item.key)
        if before is None:
            return False
        if before == item.fingerprint:
            self.outcome.duplicates += 1
        else:
            self._bury(item, Decision("conflict", "same_id_other_content"))
        return True

    def _decide_as_before(self, item: Incoming) -> Decision:
        """Refuse a creation by whom a restored metering had refused it: another was charged for the resource.

        Of two claims the first wins, and a topic that is read again has them in any order.
        """
        owner = self._known.owners.get(item.resource)
        if item.event.type in CREATED and owner is not None and owner != item.event.data.tenant_id:
            return Decision("conflict", "other_tenant")
        return self._decide(item)

    def _decide(self, item: Incoming) -> Decision:
        claimed = self._applied.get(item.key)
        if item.waited and claimed is not None:
            # Another transaction accepted the id while this one waited.
            return (
                Decision("duplicate") if claimed == item.fingerprint else Decision("conflict", "same_id_other_content")
            )
        data = item.event.data
        opened = self._open_resource(item)
        known = opened.draft if opened.draft.created is not None else None
        fact = to_rules(item.event)
        tenant = self._tenant_of(opened)
        amendment = self._amendment(item, opened)
        opened_at_us = self._rules.regions[data.region].opened_at_us
        limits = self._rules.limits
        decision = admit(
            known, tenant, fact, data.tenant_id, self._work.now_us, opened_at_us, limits, amendment=amendment
        )
        if decision.outcome == "apply":
            decision = self._apply(item, fact, opened, amendment)
        return decision

    def _open_resource(self, item: Incoming) -> _Open:
        opened = self._open.get(item.resource)
        if opened is None:
            resource = self._work.resources.get(item.resource)
            draft = Draft(None if resource is None else resource.history)
            opened = _Open(draft, resource, item.event)
            if item.resource not in self._apart:
                self._open[item.resource] = opened
        return opened

    def _tenant_of(self, opened: _Open) -> str | None:
        if opened.known is not None:
            return opened.known.tenant_id
        return opened.first.data.tenant_id if opened.draft.created is not None else None

    def _amendment(self, item: Incoming, opened: _Open) -> Amendment | None:
        if item.target is None:
            return None
        # Applied, but not in this history: it is another resource's.
        elsewhere = item.target in self._applied and opened.draft.find(item.target) is None
        return Amendment(item.target, item.event.data.reason, elsewhere)

    def _apply(self, item: Incoming, fact: Event, opened: _Open, amendment: Amendment | None) -> Decision:
        if opened.draft.created is None:
            opened.first = item.event
        if amendment is None:
            opened.draft.add(fact)
        else:
            event = None if fact.type == RETRACTED else fact
            opened.draft.replace(amendment.target, item.key, event, amendment.reason)
        opened.causes.append(item.cause)
        return self._write(opened, item.resource) if item.resource in self._apart else Decision("apply")

    def _write_all(self) -> Steps[frozenset[ResourceKey]]:
        """Charge what the drafts say; change nothing at all if one of them is not to be believed."""
        written = []
        for number, (key, opened) in enumerate(self._open.items()):
            if opened.causes:
                written.append((key, opened, *self._compute(opened, key)))
            if number % PIECES_AT_ONCE == 0:
                yield
        unbelievable = frozenset(key for key, *_, decision in written if decision.outcome != "apply")
        for key, opened, after, lines, _ in () if unbelievable else written:
            self._put(key, opened, after, lines)
        return unbelievable

    def _write(self, opened: _Open, key: ResourceKey) -> Decision:
        after, lines, decision = self._compute(opened, key)
        if decision.outcome == "apply":
            self._put(key, opened, after, lines)
        return decision

    def _compute(self, opened: _Open, key: ResourceKey) -> tuple[Resource, tuple[Line, ...], Decision]:
        """The resource with its new history, the corrections, and whether they can be believed."""
        draft, known = opened.draft, opened.known
        first, rules = opened.first.data, self._rules
        begun = _begin(draft, rules.regions[key[0]]) if known is None else known.history
        history = draft.history(begun)
        if known is None:
            shard = shard_of(first.region, first.tenant_id, rules.shards)
            resource = Resource(
                *(key[0], key[1], first.tenant_id, shard, 0, history, None, first.admission_id, history.created.source)
            )
        else:
            resource = replace(known, history=history)
        through_us = self._work.charged_through(resource)
        # Most events tell of what is not charged yet.
        later = known is not None and not draft.is_amended and comes_after(known.history, draft.added, through_us)
        lines = () if later else self._work.corrections(resource, None if known is None else known.history)
        if lines and rules.limits.correction_hours_max is not None:
            hourly = hourly_price(charge(history, self._work.table(key[0]), through_us))
            return resource, lines, admit_correction(lines, hourly, rules.limits)
        return resource, lines, Decision("apply")

    def _put(self, key: ResourceKey, opened: _Open, after: Resource, lines: Iterable[Line]) -> None:
        self.changed.setdefault(key, opened.known)
        self._work.put(after, lines, join_causes(opened.causes))
        self._work.note_unpriced(after, opened.draft.added)

    def _note(self, item: Incoming, decision: Decision) -> None:
        outcome = self.outcome
        if decision.outcome == "apply":
            outcome.applied += 1
            outcome.fingerprints[item.key] = self._claims[item.key] = self._applied[item.key] = item.fingerprint
        elif decision.outcome == "duplicate":
            outcome.duplicates += 1
        elif decision.outcome in ("pending", "parked"):
            self._wait(item, decision)
            return
        else:
            self._bury(item, decision)
        outcome.waiting.pop(item.key, None)
        if item.waited:
            outcome.done_waiting.append(item.key)

    def _wait(self, item: Incoming, decision: Decision) -> None:
        """Keep an event until what it waits for comes, within this transaction too."""
        self._claims[item.key] = item.fingerprint
        self.outcome.waiting[item.key] = self._waiting(item, decision)
        if decision.outcome == "parked":
            return
        again = replace(item, waited=True)
        if item.target is not None:
            self._amendments.setdefault(item.target, []).append(again)
        else:
            self._pending.setdefault(item.resource, []).append(again)

    def _bury(self, item: Incoming, decision: Decision) -> None:
        reason = decision.reason or decision.outcome
        event = item.event
        advice = ADVICE.get(reason, "mend the event and replay it")
        self.outcome.dead.append((item.record, reason, f"{event.type} of {event.subject}: {advice}"))
        if item.waited:
            # It gives its id back.
            self._claims.pop(item.key, None)
        if decision.outcome == "conflict":
            self.outcome.contradictions.append(
                Contradiction(
                    *(event.data.region, event.subject, reason, event.source, event.id, event.data.tenant_id),
                    f"{item.cause}: {advice}",
                    self._work.now_us,
                )
            )

    def _waiting(self, item: Incoming, decision: Decision) -> WaitingEvent:
        event = item.event
        target_source, target_id = (item.target if decision.outcome == "pending" else None) or (None, None)
        return WaitingEvent(
            *(LIFECYCLE, event.source, event.id, item.fingerprint, decision.outcome),
            decision.reason or "before its resource's creation",
            decision.until_us,
            *(event.data.region, event.subject, event.data.tenant_id),
            shard_of(event.data.region, event.data.tenant_id, self._rules.shards),
            target_source,
            target_id,
            event.model_dump_json(exclude_none=True).encode(),
            self._work.now_us,
        )


def join_causes(causes: Sequence[str]) -> str:
    """The cause of a correction that several events made together."""
    if len(causes) <= CAUSES_MAX:
        return ", ".join(causes)
    return f"{', '.join(causes[:CAUSES_MAX])} and {len(causes) - CAUSES_MAX} more"


def _begin(draft: Draft, region: Region) -> History:
    """What a resource begins with besides events. Where inventory is declared its creation confirms it first."""
    assert draft.created is not None
    bound_us = region.inventory_bound_seconds * SECOND_US
    return History(
        (draft.created,),
        region.slot_seconds,
        confirmed_until_us=draft.created.time_us + bound_us if region.declares_inventory else None,
    )


async def _save(work: Work, outcome: Outcome, changed: Mapping[ResourceKey, Resource | None], known: _Known) -> None:
    await event_store.insert_fingerprints(work.connection, outcome.fingerprints)
    if outcome.waiting:
        await event_store.upsert_waiting(work.connection, outcome.waiting.values())
    if outcome.done_waiting:
        await event_store.delete_waiting(work.connection, LIFECYCLE, outcome.done_waiting)
    deletions = [deletion for key in changed for deletion in known.deletions.get(key, ())]
    if deletions:
        for deletion in sorted(deletions, key=when_deleted):
            deletion.apply(work)
        keys = [(deletion.event.source, deletion.event.id) for deletion in deletions]
        await event_store.delete_waiting(work.connection, ENFORCEMENT_EVENTS, keys)
    expected = {
        (resource.region, resource.source, resource.history.created.time_us)
        for resource in (work.resources[key] for key, before in changed.items() if before is None)
        if resource.history.confirmed_until_us is not None
    }
    if expected:
        await inventory_store.expect_sources(work.connection, expected)
    await save_contradictions(work, changed, outcome.contradictions)


async def save_contradictions(
    work: Work, changed: Mapping[ResourceKey, Resource | None], found: Sequence[Contradiction]
) -> None:
    """Note what changed histories contradict now, in place of what they did before."""
    noted, touched = list(found), []
    for key, before in changed.items():
        resource = work.resources[key]
        of_history = describe_contradictions(resource, work.now_us)
        if of_history or (before is not None and before.contradictions):
            touched.append(key)
            noted += of_history
            for item in of_history[before.contradictions if before is not None else 0 :]:
                EVENTS_WITHOUT_EFFECT.labels(item.kind).inc()
            work.resources[key] = replace(resource, contradictions=len(of_history))
    if touched:
        await contradiction_store.delete_of_history(work.connection, touched)
    if noted:
        await contradiction_store.insert_contradictions(work.connection, noted)


_DETAILS = {
    "ends_no_run": "the stop ends no run",
    "run_has_begun": "the run had begun before",
    "after_the_end": "it comes after the deletion",
}


def describe_contradictions(resource: Resource, now_us: int) -> list[Contradiction]:
    """What a history contradicts by itself: events without effect, and numbers that occur twice."""
    order = resource.history.order
    found = [
        Contradiction(
            *(resource.region, resource.resource_id, item.effect, *item.event.key, resource.tenant_id),
            f"{item.event.type}: {_DETAILS[item.effect]}",
            now_us,
        )
        for item in order.without_effect
    ]
    if order.sequences_conflict:
        first = order.placed[0].event
        detail = "a sequence number occurs twice: each source counts for itself"
        key = resource.region, resource.resource_id, "number_twice", first.source, first.event_id
        found.append(Contradiction(*key, resource.tenant_id, detail, now_us))
    return found


def waiting_record(waiting: WaitingEvent) -> Record:
    """The record that a waiting event becomes if it turns out to be dead: its position is derived from its id."""
    name = content_hash(orjson.dumps([waiting.source, waiting.event_id]))
    return Record(waiting.topic, uuid.UUID(int=0), 0, int.from_bytes(name[:7], "big"), None, waiting.body)
