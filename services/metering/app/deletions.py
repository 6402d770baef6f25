"""Deletions that enforcement commands: nothing is charged after them, unless they were given up."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.metering.app.work import Work
from services.metering.store import contradictions as contradiction_store
from services.metering.store import events as event_store
from services.metering.store.contradictions import Contradiction
from services.metering.store.events import WaitingEvent
from services.metering.store.resources import Resource
from shared.errors import RecordError
from shared.events.enforcement import DeletionRead
from shared.events.reading import read_json
from shared.ids import content_hash, shard_of
from shared.topics import ENFORCEMENT_EVENTS


@dataclass(frozen=True, slots=True)
class WaitingDeletion:
    """An event of enforcement's that waited for its resource's creation."""

    event: DeletionRead

    def apply(self, work: Work) -> None:
        resource = work.resources.get((self.event.data.region, self.event.data.resource_id or ""))
        if resource is not None and resource.tenant_id == self.event.data.tenant_id:
            _command(work, resource, self.event)


def when_deleted(deletion: WaitingDeletion) -> int:
    return deletion.event.time


def read_waiting_deletion(waiting: WaitingEvent) -> WaitingDeletion:
    return WaitingDeletion(read_json(DeletionRead, waiting.body))


async def apply_deletions(work: Work, events: Sequence[DeletionRead], shards: int) -> None:
    """End charges at the command, or go on with them if it was given up.

    A resource that outlived its deletion existed all the while: what was not charged since the command is charged. What
    names an unknown resource waits for its creation. Raises RecordError for one whose history can't be read.
    """
    waiting: list[WaitingEvent] = []
    contradictions: list[Contradiction] = []
    for event in events:
        key = event.data.region, event.data.resource_id or ""
        resource = work.resources.get(key)
        if key in work.unreadable:
            raise RecordError("resource_unreadable", f"{event.type} of {key[1]}: {work.unreadable[key].reason}")
        if resource is None:
            waiting.append(_waiting(event, work.now_us, shards))
        elif resource.tenant_id != event.data.tenant_id:
            contradictions.append(_other_tenant(event, work.now_us))
        else:
            _command(work, resource, event)
    if waiting:
        await event_store.upsert_waiting(work.connection, waiting)
    if contradictions:
        await contradiction_store.insert_contradictions(work.connection, contradictions)


def _command(work: Work, resource: Resource, event: DeletionRead) -> None:
    before = resource.history
    commanded_us = _commanded_us(before.commanded_us, event)
    if commanded_us == before.commanded_us:
        return
    changed = replace(resource, history=replace(before, commanded_us=commanded_us))
    work.put(changed, work.corrections(changed, before), f"{event.source}/{event.id}")


def _commanded_us(known_us: int | None, event: DeletionRead) -> int | None:
    """The earliest command that was not given up. An account's events come in enforcement's order, repeats included."""
    if event.type == "deletion.abandoned":
        return None if known_us is not None and known_us <= event.time else known_us
    return event.time if known_us is None else min(known_us, event.time)


def _waiting(event: DeletionRead, now_us: int, shards: int) -> WaitingEvent:
    data, body = event.data, event.model_dump_json().encode()
    return WaitingEvent(
        *(ENFORCEMENT_EVENTS, event.source, event.id, content_hash(body), "pending"),
        *("before its resource's creation", None, data.region, data.resource_id or "", data.tenant_id),
        *(shard_of(data.region, data.tenant_id, shards), None, None, body, now_us),
    )


def _other_tenant(event: DeletionRead, now_us: int) -> Contradiction:
    data = event.data
    return Contradiction(
        *(data.region, data.resource_id or "", "other_tenant", event.source, event.id, data.tenant_id),
        f"{event.type}: the resource belongs to another tenant",
        now_us,
    )
