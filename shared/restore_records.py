"""SQL of restores: which database this is, what it knows of its own streams, and what each restore lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson

from shared.db import Connection

# Restores go one at a time, and no process of the service starts beside one.
_RESTORE_LOCK = "hashtext('tollkeeper.restore')"
RESTORE_COLUMNS = (
    "incarnation, noticed, restored_at, told_until, finished_at, confirmed_at, confirmed_by, confirm_reason"
)


@dataclass(frozen=True, slots=True)
class Restore:
    """One restore of this database. Peers may know things up to `told_until_us` that it does not."""

    incarnation: int
    noticed: str
    restored_at_us: int
    told_until_us: int | None
    finished_at_us: int | None = None
    confirmed_at_us: int | None = None
    confirmed_by: str | None = None
    confirm_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """Something of an account that can't be had back; `item` is its id within its kind."""

    kind: str
    item: str
    region: str
    tenant_id: str
    told_at_us: int
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Mark:
    """What a database remembers of itself, and what the server says that it is."""

    incarnation: int
    identity: str | None
    present_identity: str


async def try_lock_restore(connection: Connection) -> bool:
    """Take the lock of restores for this connection, if nobody has it."""
    return bool(await connection.fetchval(f"select pg_try_advisory_lock({_RESTORE_LOCK})"))


async def unlock_restore(connection: Connection) -> None:
    await connection.execute(f"select pg_advisory_unlock({_RESTORE_LOCK})")


async def load_mark(connection: Connection) -> Mark:
    row = await connection.fetchrow("select incarnation, identity, database_identity() as present from database_mark")
    assert row is not None, "the migration made the row"
    return Mark(*row)


async def save_mark(connection: Connection, incarnation: int, identity: str) -> None:
    await connection.execute("update database_mark set incarnation = $1, identity = $2", incarnation, identity)


async def load_published_offsets(connection: Connection, topics: Sequence[str]) -> dict[str, dict[int, int]]:
    """Up to where each partition of some topics is known to hold what this database published."""
    found: dict[str, dict[int, int]] = {topic: {} for topic in topics}
    rows = await connection.fetch("select * from published_offset where topic = any($1::text[])", list(topics))
    for row in rows:
        found[row["topic"]][row["partition"]] = row["next_offset"]
    return found


async def save_published_offsets(connection: Connection, offsets: Mapping[tuple[str, int], int]) -> None:
    await connection.execute(
        """
        insert into published_offset (topic, partition, next_offset)
        select * from unnest($1::text[], $2::int[], $3::bigint[])
        on conflict (topic, partition) do update set next_offset = excluded.next_offset
        """,
        [topic for topic, _ in offsets],
        [partition for _, partition in offsets],
        list(offsets.values()),
    )


async def load_heads(connection: Connection) -> dict[int, int]:
    """The last sequence number of every stream."""
    return dict(await connection.fetch("select stream, seq from stream_head"))  # type: ignore[arg-type]  # two columns


async def raise_heads(connection: Connection, published: Mapping[int, int]) -> None:
    """Give no sequence number twice, and send nothing again that these streams are known to have published.

    A stream whose last number is kept elsewhere than in `outbox_head` is its service's own to raise.
    """
    columns = list(published), list(published.values())
    await connection.execute(
        """
        with missing as (
          select p.stream, p.seq from unnest($1::int[], $2::bigint[]) p(stream, seq)
          where not exists (select from stream_head h where h.stream = p.stream) order by 1
        )
        insert into outbox_head (stream, seq) select stream, seq from missing
        """,
        *columns,
    )
    await connection.execute(
        """
        update outbox_head h set seq = greatest(h.seq, p.seq) from unnest($1::int[], $2::bigint[]) p(stream, seq)
        where h.stream = p.stream
        """,
        *columns,
    )
    await connection.execute(
        """
        insert into outbox_cursor (stream, published_seq) select * from unnest($1::int[], $2::bigint[])
        on conflict (stream) do update set published_seq = greatest(outbox_cursor.published_seq, excluded.published_seq)
        """,
        *columns,
    )


async def insert_restore(connection: Connection, restore: Restore) -> None:
    await connection.execute(
        "insert into restore_record (incarnation, noticed, restored_at, told_until) values ($1, $2, $3, $4)",
        restore.incarnation,
        restore.noticed,
        restore.restored_at_us,
        restore.told_until_us,
    )


async def load_unfinished_restore(connection: Connection) -> Restore | None:
    row = await connection.fetchrow(
        f"select {RESTORE_COLUMNS} from restore_record where finished_at is null"  # noqa: S608 - a constant
    )
    return None if row is None else Restore(*row)


async def finish_restore(connection: Connection, incarnation: int, now_us: int) -> None:
    await connection.execute("update restore_record set finished_at = $2 where incarnation = $1", incarnation, now_us)


async def load_restores(connection: Connection) -> list[Restore]:
    """Every restore, the latest first."""
    query = f"select {RESTORE_COLUMNS} from restore_record order by incarnation desc"  # noqa: S608 - a constant
    return [Restore(*row) for row in await connection.fetch(query)]


async def find_unconfirmed_restore(connection: Connection) -> int | None:
    """The first incarnation that no operator has confirmed."""
    found: int | None = await connection.fetchval(
        "select min(incarnation) from restore_record where confirmed_at is null"
    )
    return found


async def find_last_restore(connection: Connection) -> int | None:
    """When this database was last set back."""
    found: int | None = await connection.fetchval("select max(restored_at) from restore_record")
    return found


async def confirm_restores(connection: Connection, incarnation: int, actor: str, reason: str, now_us: int) -> int:
    """Confirm a restore and those before it; answer how many were not confirmed.

    An incarnation that never was confirms none: whoever heard of it would take restores to come for confirmed.
    """
    status = await connection.execute(
        """
        update restore_record set confirmed_at = $2, confirmed_by = $3, confirm_reason = $4
        where incarnation <= $1 and confirmed_at is null
          and exists (select from restore_record r where r.incarnation = $1)
        """,
        incarnation,
        now_us,
        actor,
        reason,
    )
    return int(status.split()[-1])


async def insert_lost(connection: Connection, incarnation: int, lost: Sequence[Lost]) -> None:
    await connection.execute(
        """
        insert into restore_lost (incarnation, kind, item, region, tenant_id, told_at, detail)
        select $1, * from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::jsonb[])
        on conflict do nothing
        """,
        incarnation,
        [item.kind for item in lost],
        [item.item for item in lost],
        [item.region for item in lost],
        [item.tenant_id for item in lost],
        [item.told_at_us for item in lost],
        [orjson.dumps(dict(item.detail)).decode() for item in lost],
    )


async def load_lost(connection: Connection, incarnation: int, after: tuple[str, str], limit: int) -> list[Lost]:
    """A page of what a restore lost, by kind and item."""
    rows = await connection.fetch(
        """
        select kind, item, region, tenant_id, told_at, detail from restore_lost
        where incarnation = $1 and (kind, item) > ($2, $3) order by kind, item limit $4
        """,
        incarnation,
        *after,
        limit,
    )
    return [_lost(row) for row in rows]


def _lost(row: asyncpg.Record) -> Lost:
    kind, item, region, tenant_id, told_at_us, detail = row
    return Lost(kind, item, region, tenant_id, told_at_us, orjson.loads(detail))
