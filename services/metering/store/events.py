"""SQL of lifecycle events as they came in: known ones, and those that wait."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import asyncpg

from shared.db import Connection

EventKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class WaitingEvent:
    """An event that is not part of its resource's history yet. `body` is the CloudEvent as JSON."""

    source: str
    event_id: str
    state: str
    reason: str
    due_at_us: int | None
    region: str
    resource_id: str
    tenant_id: str
    shard: int
    body: bytes
    received_at_us: int


_WAITING = "source, event_id, state, reason, due_at, region, resource_id, tenant_id, shard, body, received_at"


def _waiting(row: asyncpg.Record) -> WaitingEvent:
    return WaitingEvent(*row.values())


async def load_fingerprints(connection: Connection, keys: Collection[EventKey]) -> dict[EventKey, bytes]:
    rows = await connection.fetch(
        """
        select e.source, e.event_id, e.fingerprint from lifecycle_event e
        join unnest($1::text[], $2::text[]) k(source, event_id) using (source, event_id)
        """,
        [key[0] for key in keys],
        [key[1] for key in keys],
    )
    return {(row["source"], row["event_id"]): row["fingerprint"] for row in rows}


async def insert_fingerprints(connection: Connection, fingerprints: dict[EventKey, bytes]) -> None:
    """Claim events. A claim that another transaction made meanwhile raises UniqueViolationError: read again."""
    if not fingerprints:
        return
    await connection.execute(
        """
        insert into lifecycle_event (source, event_id, fingerprint)
        select * from unnest($1::text[], $2::text[], $3::bytea[])
        """,
        [key[0] for key in fingerprints],
        [key[1] for key in fingerprints],
        list(fingerprints.values()),
    )


async def upsert_waiting(connection: Connection, events: Sequence[WaitingEvent]) -> None:
    await connection.executemany(
        f"""
        insert into waiting_event ({_WAITING}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        on conflict (source, event_id) do update
        set state = excluded.state, reason = excluded.reason, due_at = excluded.due_at
        """,  # noqa: S608 - fixed column names
        [
            (
                *(item.source, item.event_id, item.state, item.reason, item.due_at_us, item.region),
                *(item.resource_id, item.tenant_id, item.shard, item.body, item.received_at_us),
            )
            for item in events
        ],
    )


async def delete_waiting(connection: Connection, keys: Collection[EventKey]) -> None:
    await connection.execute(
        """
        delete from waiting_event w using unnest($1::text[], $2::text[]) k(source, event_id)
        where (w.source, w.event_id) = (k.source, k.event_id)
        """,
        [key[0] for key in keys],
        [key[1] for key in keys],
    )


async def load_pending(connection: Connection, resources: Collection[tuple[str, str]]) -> list[WaitingEvent]:
    """The pending events of resources of which a `created` has come."""
    rows = await connection.fetch(
        f"""
        select {", ".join("w." + name for name in _WAITING.split(", "))} from waiting_event w
        join unnest($1::text[], $2::text[]) k(region, resource_id) using (region, resource_id)
        where w.state = 'pending' order by w.source, w.event_id
        """,  # noqa: S608 - fixed column names
        [key[0] for key in resources],
        [key[1] for key in resources],
    )
    return [_waiting(row) for row in rows]


async def load_due(connection: Connection, now_us: int, limit: int) -> list[WaitingEvent]:
    """Parked events whose time has come."""
    rows = await connection.fetch(
        f"select {_WAITING} from waiting_event where due_at <= $1 order by due_at, source, event_id limit $2",  # noqa: S608
        now_us,
        limit,
    )
    return [_waiting(row) for row in rows]


async def load_waiting(connection: Connection, key: EventKey) -> WaitingEvent | None:
    row = await connection.fetchrow(
        f"select {_WAITING} from waiting_event where source = $1 and event_id = $2",  # noqa: S608 - fixed column names
        *key,
    )
    return None if row is None else _waiting(row)


async def list_waiting(connection: Connection, state: str, limit: int) -> list[WaitingEvent]:
    rows = await connection.fetch(
        f"select {_WAITING} from waiting_event where state = $1 order by received_at, source, event_id limit $2",  # noqa: S608
        state,
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
