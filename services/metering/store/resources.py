"""SQL of resources and of what waits for a price."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import asyncpg

from services.metering.rules.history import History, decode_history, encode_history
from shared.db import Connection


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource with its whole history; `version` is its shard's at the last change."""

    region: str
    resource_id: str
    tenant_id: str
    shard: int
    version: int
    history: History
    ends_at_us: int | None
    admission_id: str | None


_COLUMNS = "region, resource_id, tenant_id, shard, version, history, ends_at, admission_id"


def _resource(row: asyncpg.Record) -> Resource:
    region, resource_id, tenant_id, shard, version, history, ends_at_us, admission_id = row
    return Resource(region, resource_id, tenant_id, shard, version, decode_history(history), ends_at_us, admission_id)


async def load_resources(connection: Connection, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], Resource]:
    """The resources of the given (region, resource id), those that exist."""
    rows = await connection.fetch(
        f"""
        select {", ".join("r." + name for name in _COLUMNS.split(", "))} from resource r
        join unnest($1::text[], $2::text[]) k(region, resource_id) using (region, resource_id)
        """,  # noqa: S608 - fixed column names
        [key[0] for key in keys],
        [key[1] for key in keys],
    )
    return {(row["region"], row["resource_id"]): _resource(row) for row in rows}


async def load_changed(connection: Connection, shard: int, version: int) -> list[Resource]:
    """The shard's resources that changed after `version`."""
    rows = await connection.fetch(
        f"select {_COLUMNS} from resource where shard = $1 and version > $2",  # noqa: S608 - fixed column names
        shard,
        version,
    )
    return [_resource(row) for row in rows]


async def load_all(connection: Connection, shard: int) -> list[Resource]:
    """All the shard's resources, the ended ones too."""
    rows = await connection.fetch(f"select {_COLUMNS} from resource where shard = $1", shard)  # noqa: S608
    return [_resource(row) for row in rows]


async def load_open(connection: Connection, shard: int, through_us: int) -> list[Resource]:
    """The shard's resources that may still be charged for something at or after `through_us`."""
    rows = await connection.fetch(
        f"select {_COLUMNS} from resource where shard = $1 and (ends_at is null or ends_at >= $2)",  # noqa: S608
        shard,
        through_us,
    )
    return [_resource(row) for row in rows]


async def upsert_resources(connection: Connection, resources: Sequence[Resource]) -> None:
    """Write resources whose shards are locked. A tenant and a shard never change."""
    if not resources:
        return
    await connection.execute(
        """
        insert into resource (region, resource_id, tenant_id, shard, version, history, ends_at, admission_id)
        select * from unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::bigint[], $6::bytea[],
                             $7::timestamptz[], $8::text[])
        on conflict (region, resource_id) do update
        set version = excluded.version, history = excluded.history, ends_at = excluded.ends_at
        """,
        [item.region for item in resources],
        [item.resource_id for item in resources],
        [item.tenant_id for item in resources],
        [item.shard for item in resources],
        [item.version for item in resources],
        [encode_history(item.history) for item in resources],
        [item.ends_at_us for item in resources],
        [item.admission_id for item in resources],
    )


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
