"""SQL of resources and of what waits for a price."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from services.metering.rules.history import History, decode_history, encode_history
from shared.db import Connection
from shared.errors import Corruption, TransientFault

# Some 10 ms of work.
DECODED_ON_LOOP_BYTES = 250_000


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource with its whole history; `version` is its shard's at the last change, `source` that of its creation.

    `contradictions` is how many its history makes. A resource that ticks set aside is charged up to
    `charged_through_us`; others are charged with their shard.
    """

    region: str
    resource_id: str
    tenant_id: str
    shard: int
    version: int
    history: History
    ends_at_us: int | None
    admission_id: str | None
    source: str
    contradictions: int = 0
    charged_through_us: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.region, self.resource_id

    def with_history(self, history: History, version: int, ends_at_us: int | None) -> "Resource":
        """The same resource with another history. Not by `replace`: a million are confirmed at a time."""
        return Resource(
            self.region,
            self.resource_id,
            self.tenant_id,
            self.shard,
            version,
            history,
            ends_at_us,
            self.admission_id,
            self.source,
            self.contradictions,
            self.charged_through_us,
        )


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A resource whose stored history can't be read, and why."""

    region: str
    resource_id: str
    tenant_id: str
    shard: int
    reason: str
    charged_through_us: int | None

    @property
    def key(self) -> tuple[str, str]:
        return self.region, self.resource_id


_COLUMNS = (
    "region, resource_id, tenant_id, shard, version, history, ends_at, admission_id, source, contradictions, "
    "charged_through"
)
_OF_R = ", ".join("r." + name for name in _COLUMNS.split(", "))


def _resource(row: asyncpg.Record) -> Resource:
    region, resource_id, tenant_id, shard, version, history, *others = row
    return Resource(region, resource_id, tenant_id, shard, version, decode_history(history), *others)


def _read(row: asyncpg.Record) -> Resource | Unreadable:
    try:
        return _resource(row)
    except Corruption as error:
        return Unreadable(
            row["region"], row["resource_id"], row["tenant_id"], row["shard"], str(error), row["charged_through"]
        )


async def _read_all(rows: Sequence[asyncpg.Record]) -> list[Resource | Unreadable]:
    """Long histories are decoded beside the event loop."""
    if sum(len(row["history"]) for row in rows) <= DECODED_ON_LOOP_BYTES:
        return [_read(row) for row in rows]
    return await asyncio.to_thread(lambda: [_read(row) for row in rows])


async def load_resources(connection: Connection, keys: Collection[tuple[str, str]]) -> list[Resource | Unreadable]:
    """The resources of the given (region, resource id), those that exist."""
    rows = await connection.fetch(
        f"""
        select {_OF_R} from resource r
        join unnest($1::text[], $2::text[]) k(region, resource_id) using (region, resource_id)
        """,  # noqa: S608 - fixed column names
        [key[0] for key in keys],
        [key[1] for key in keys],
    )
    return await _read_all(rows)


async def load_open_of(
    connection: Connection,
    accounts: Collection[tuple[str, str, int]],
    after: tuple[str, str],
    limit: int,
) -> list[Resource | Unreadable]:
    """A page of what has no end of the given (region, tenant id, shard), by (region, resource id).

    By their shards, each read whole: an index by tenant would cost every event for a question that is seldom asked.
    """
    rows = await connection.fetch(
        f"""
        select {_OF_R} from resource r
        join unnest($1::text[], $2::text[], $3::int[]) k(region, tenant_id, shard) using (region, tenant_id, shard)
        where r.shard = any($3) and r.ends_at is null and (r.region, r.resource_id) > ($4, $5)
        order by r.region, r.resource_id limit $6
        """,  # noqa: S608 - fixed column names
        [account[0] for account in accounts],
        [account[1] for account in accounts],
        [account[2] for account in accounts],
        *after,
        limit,
    )
    return await _read_all(rows)


async def load_owner(connection: Connection, region: str, resource_id: str) -> str | None:
    """The tenant who is charged for a resource; None for one that is not known."""
    owner: str | None = await connection.fetchval(
        "select tenant_id from resource where (region, resource_id) = ($1, $2)", region, resource_id
    )
    return owner


async def load_changed(connection: Connection, shard: int, version: int) -> list[Resource | Unreadable]:
    """The shard's resources that changed after `version`."""
    rows = await connection.fetch(
        f"select {_COLUMNS} from resource where shard = $1 and version > $2",  # noqa: S608 - fixed column names
        shard,
        version,
    )
    return await _read_all(rows)


async def load_all(connection: Connection, shard: int) -> list[Resource]:
    """All the shard's resources, the ended ones too. Raises Corruption where a history can't be read."""
    rows = await connection.fetch(f"select {_COLUMNS} from resource where shard = $1", shard)  # noqa: S608
    found: list[Resource] = []
    for item in await _read_all(rows):
        if isinstance(item, Unreadable):
            raise Corruption(f"{item.region}/{item.resource_id}: {item.reason}")
        found.append(item)
    return found


async def load_open(connection: Connection, shard: int, through_us: int) -> list[Resource | Unreadable]:
    """The shard's resources that may still be charged for something at or after `through_us`, or were set aside."""
    rows = await connection.fetch(
        f"select {_COLUMNS} from resource "  # noqa: S608 - fixed column names
        "where shard = $1 and (ends_at is null or ends_at >= $2 or charged_through is not null)",
        shard,
        through_us,
    )
    return await _read_all(rows)


async def write_resources(
    connection: Connection, resources: Sequence[Resource], seen: Mapping[tuple[str, str], int]
) -> None:
    """Write resources whose shards are locked. A tenant and a shard never change.

    Identity is fenced by itself: a shard's lock does not cover another tenant's claim on the same id. What was not
    `seen` is inserted, never upserted (UniqueViolationError: somebody else created it), and what was seen is updated at
    the version that was read. Raises TransientFault if it has another one: read again.
    """
    new = [item for item in resources if item.key not in seen]
    known = [item for item in resources if item.key in seen]
    if new:
        await connection.execute(
            f"""
            insert into resource ({_COLUMNS})
            select * from unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::bigint[], $6::bytea[],
                                 $7::timestamptz[], $8::text[], $9::text[], $10::int[], $11::timestamptz[])
            """,  # noqa: S608 - fixed column names
            [item.region for item in new],
            [item.resource_id for item in new],
            [item.tenant_id for item in new],
            [item.shard for item in new],
            [item.version for item in new],
            [encode_history(item.history) for item in new],
            [item.ends_at_us for item in new],
            [item.admission_id for item in new],
            [item.source for item in new],
            [item.contradictions for item in new],
            [item.charged_through_us for item in new],
        )
    if known:
        await _update_resources(connection, known, seen)


async def _update_resources(
    connection: Connection, resources: Sequence[Resource], seen: Mapping[tuple[str, str], int]
) -> None:
    done = await connection.execute(
        """
        update resource r
        set version = n.version, history = n.history, ends_at = n.ends_at, contradictions = n.contradictions,
            charged_through = n.charged_through
        from unnest($1::text[], $2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::bytea[], $7::timestamptz[],
                    $8::int[], $9::timestamptz[])
          n(region, resource_id, shard, seen, version, history, ends_at, contradictions, charged_through)
        where (r.region, r.resource_id) = (n.region, n.resource_id) and (r.shard, r.version) = (n.shard, n.seen)
        """,
        [item.region for item in resources],
        [item.resource_id for item in resources],
        [item.shard for item in resources],
        [seen[item.key] for item in resources],
        [item.version for item in resources],
        [encode_history(item.history) for item in resources],
        [item.ends_at_us for item in resources],
        [item.contradictions for item in resources],
        [item.charged_through_us for item in resources],
    )
    if done != f"UPDATE {len(resources)}":
        raise TransientFault(f"of {len(resources)} resources some have changed since they were read ({done})")


async def insert_unpriced(connection: Connection, rows: Collection[tuple[str, str, str, str, int]]) -> None:
    """Remember (region, kind, sku, resource id, shard) as waiting for the SKU's first price."""
    if not rows:
        return
    await connection.executemany(
        "insert into unpriced_resource (region, kind, sku, resource_id, shard) values ($1, $2, $3, $4, $5) "
        "on conflict do nothing",
        sorted(rows),
    )


async def load_unpriced(connection: Connection, region: str, kind: str, skus: Collection[str]) -> list[tuple[int, str]]:
    """The (shard, resource id) that wait for a first price of these SKUs, ascending."""
    rows = await connection.fetch(
        """
        select distinct shard, resource_id from unpriced_resource
        where region = $1 and kind = $2 and sku = any($3::text[]) order by shard, resource_id
        """,
        region,
        kind,
        list(skus),
    )
    return [(row["shard"], row["resource_id"]) for row in rows]


async def delete_unpriced(connection: Connection, region: str, kind: str, skus: Collection[str]) -> None:
    await connection.execute(
        "delete from unpriced_resource where region = $1 and kind = $2 and sku = any($3::text[])",
        region,
        kind,
        list(skus),
    )


async def load_listed(
    connection: Connection, shard: int, region: str, source: str, at_us: int
) -> list[Resource | Unreadable]:
    """The shard's resources of a source whose charges had not ended at an instant."""
    rows = await connection.fetch(
        f"""
        select {_COLUMNS} from resource
        where shard = $1 and region = $2 and source = $3 and (ends_at is null or ends_at > $4)
        """,  # noqa: S608 - fixed column names
        shard,
        region,
        source,
        at_us,
    )
    return await _read_all(rows)


async def set_charged_through(
    connection: Connection, shard: int, version: int, keys: Collection[tuple[str, str]], charged_through_us: int | None
) -> None:
    """Charge resources up to an instant of their own from now on, or with None with their shard again.

    One that has such an instant keeps it.
    """
    await connection.execute(
        """
        update resource r
        set charged_through = case when $5::timestamptz is null then null else coalesce(r.charged_through, $5) end,
            version = $2
        from unnest($3::text[], $4::text[]) k(region, resource_id)
        where (r.region, r.resource_id) = (k.region, k.resource_id) and r.shard = $1
        """,
        shard,
        version,
        [key[0] for key in keys],
        [key[1] for key in keys],
        charged_through_us,
    )
