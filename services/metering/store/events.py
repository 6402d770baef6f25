"""SQL of events as they came in: known ones, and those that wait."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from shared.db import Connection

EventKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class WaitingEvent:
    """A fact that is not applied yet. `body` is the CloudEvent as JSON.

    `replaces_source` and `replaces_id` are set while it waits for the event that it replaces. `resource_id`
    is the SKU where the topic is that of usage.
    """

    topic: str
    source: str
    event_id: str
    fingerprint: bytes
    state: str
    reason: str
    due_at_us: int | None
    region: str
    resource_id: str
    tenant_id: str
    shard: int
    replaces_source: str | None
    replaces_id: str | None
    body: bytes
    received_at_us: int

    @property
    def key(self) -> EventKey:
        return self.source, self.event_id


_WAITING = (
    "topic, source, event_id, fingerprint, state, reason, due_at, region, resource_id, tenant_id, shard, "
    "replaces_source, replaces_id, body, received_at"
)
_OF_W = ", ".join("w." + name for name in _WAITING.split(", "))


def _waiting(row: asyncpg.Record) -> WaitingEvent:
    return WaitingEvent(*row.values())


def _columns(keys: Collection[EventKey]) -> tuple[list[str], list[str]]:
    return [key[0] for key in keys], [key[1] for key in keys]


async def load_fingerprints(connection: Connection, keys: Collection[EventKey]) -> dict[EventKey, bytes]:
    """The fingerprints of lifecycle events that were applied."""
    rows = await connection.fetch(
        """
        select e.source, e.event_id, e.fingerprint from lifecycle_event e
        join unnest($1::text[], $2::text[]) k(source, event_id) using (source, event_id)
        """,
        *_columns(keys),
    )
    return {(row["source"], row["event_id"]): row["fingerprint"] for row in rows}


async def insert_fingerprints(connection: Connection, fingerprints: Mapping[EventKey, bytes]) -> None:
    """Claim events. A claim that another transaction made meanwhile raises UniqueViolationError: read again."""
    if not fingerprints:
        return
    await connection.execute(
        """
        insert into lifecycle_event (source, event_id, fingerprint)
        select * from unnest($1::text[], $2::text[], $3::bytea[])
        """,
        *_columns(fingerprints),
        list(fingerprints.values()),
    )


async def load_waiting_fingerprints(
    connection: Connection, topic: str, keys: Collection[EventKey]
) -> dict[EventKey, bytes]:
    """The fingerprints of a topic's events that wait."""
    rows = await connection.fetch(
        """
        select w.source, w.event_id, w.fingerprint from waiting_event w
        join unnest($2::text[], $3::text[]) k(source, event_id) using (source, event_id) where w.topic = $1
        """,
        topic,
        *_columns(keys),
    )
    return {(row["source"], row["event_id"]): row["fingerprint"] for row in rows}


async def upsert_waiting(connection: Connection, events: Collection[WaitingEvent]) -> None:
    """Keep events until what they wait for comes. One that waits already goes on waiting, for what it waits now."""
    await connection.executemany(
        f"""
        insert into waiting_event ({_WAITING})
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
        on conflict (topic, source, event_id) do update
        set state = excluded.state, reason = excluded.reason, due_at = excluded.due_at,
            replaces_source = excluded.replaces_source, replaces_id = excluded.replaces_id
        where waiting_event.fingerprint = excluded.fingerprint
        """,  # noqa: S608 - fixed column names
        [
            (
                *(item.topic, item.source, item.event_id, item.fingerprint, item.state, item.reason, item.due_at_us),
                *(item.region, item.resource_id, item.tenant_id, item.shard, item.replaces_source, item.replaces_id),
                *(item.body, item.received_at_us),
            )
            for item in events
        ],
    )


async def delete_waiting(connection: Connection, topic: str, keys: Collection[EventKey]) -> None:
    await connection.execute(
        """
        delete from waiting_event w using unnest($2::text[], $3::text[]) k(source, event_id)
        where w.topic = $1 and (w.source, w.event_id) = (k.source, k.event_id)
        """,
        topic,
        *_columns(keys),
    )


async def load_pending(connection: Connection, resources: Collection[tuple[str, str]]) -> list[WaitingEvent]:
    """What waits for the creation of resources, in the order in which it came."""
    rows = await connection.fetch(
        f"""
        select {_OF_W} from waiting_event w
        join unnest($1::text[], $2::text[]) k(region, resource_id) using (region, resource_id)
        where w.state = 'pending' and w.replaces_id is null order by w.received_at, w.topic, w.source, w.event_id
        """,  # noqa: S608 - fixed column names
        [key[0] for key in resources],
        [key[1] for key in resources],
    )
    return [_waiting(row) for row in rows]


async def load_amendments(connection: Connection, topic: str, targets: Collection[EventKey]) -> list[WaitingEvent]:
    """What waits for one of these events in order to replace it, in the order in which it came."""
    rows = await connection.fetch(
        f"""
        select {_OF_W} from waiting_event w
        join unnest($2::text[], $3::text[]) k(source, event_id)
          on (w.replaces_source, w.replaces_id) = (k.source, k.event_id)
        where w.topic = $1 order by w.received_at, w.source, w.event_id
        """,  # noqa: S608 - fixed column names
        topic,
        *_columns(targets),
    )
    return [_waiting(row) for row in rows]


async def load_due(connection: Connection, kind: str, now_us: int, limit: int) -> list[WaitingEvent]:
    """Parked events whose time has come, without those that are set aside under `kind` (topic/source/id)."""
    rows = await connection.fetch(
        f"""
        select {_OF_W} from waiting_event w
        where w.due_at <= $2 and not exists (
          select from set_aside s
          where s.kind = $1 and s.item = w.topic || '/' || w.source || '/' || w.event_id and still_held(s, $2)
        )
        order by w.due_at, w.topic, w.source, w.event_id limit $3
        """,  # noqa: S608 - fixed column names
        kind,
        now_us,
        limit,
    )
    return [_waiting(row) for row in rows]


async def load_first_due(connection: Connection, now_us: int) -> int | None:
    """When the earliest parked event was due that is still to be applied; None if there is none. Set aside ones are
    no reason to wait.
    """
    due_us: int | None = await connection.fetchval(
        """
        select min(w.due_at) from waiting_event w
        where w.due_at <= $1 and not exists (
          select from set_aside s where s.kind = 'waiting' and s.item = w.topic || '/' || w.source || '/' || w.event_id
        )
        """,
        now_us,
    )
    return due_us


async def find_waiting(connection: Connection, key: EventKey) -> list[WaitingEvent]:
    """What waits under a (source, id), at most one per topic."""
    rows = await connection.fetch(
        f"select {_WAITING} from waiting_event where source = $1 and event_id = $2 order by topic",  # noqa: S608
        *key,
    )
    return [_waiting(row) for row in rows]


@dataclass(frozen=True, slots=True)
class WaitingFilter:
    """Which waiting events are listed: after a (topic, source, id), of a state, of those that are named."""

    state: str
    region: str | None = None
    tenant_id: str | None = None
    resource_id: str | None = None
    reason: str | None = None


async def list_waiting(
    connection: Connection, wanted: WaitingFilter, after: Sequence[str], limit: int
) -> list[WaitingEvent]:
    rows = await connection.fetch(
        f"""
        select {_WAITING} from waiting_event
        where state = $1 and (topic, source, event_id) > ($2, $3, $4)
          and ($5::text is null or region = $5) and ($6::text is null or tenant_id = $6)
          and ($7::text is null or resource_id = $7) and ($8::text is null or reason = $8)
        order by topic, source, event_id limit $9
        """,  # noqa: S608 - fixed column names
        wanted.state,
        *after,
        wanted.region,
        wanted.tenant_id,
        wanted.resource_id,
        wanted.reason,
        limit,
    )
    return [_waiting(row) for row in rows]


async def count_waiting(connection: Connection) -> dict[str, int]:
    rows = await connection.fetch("select state, count(*) as events from waiting_event group by state")
    return {"pending": 0, "parked": 0, **{row["state"]: row["events"] for row in rows}}


async def mark_reported(connection: Connection, before_us: int) -> list[WaitingEvent]:
    """The pending events received before an instant that were not reported yet; they are now."""
    rows = await connection.fetch(
        f"""
        update waiting_event set reported = true
        where state = 'pending' and not reported and received_at < $1 returning {_WAITING}
        """,  # noqa: S608 - fixed column names
        before_us,
    )
    return [_waiting(row) for row in rows]
