"""SQL of service usage: records, and the running sums over which it is rounded."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from shared.db import Connection
from shared.errors import TransientFault

# region, tenant, sku, price in micros, unit size
TotalKey = tuple[str, str, str, int, int]


@dataclass(frozen=True, slots=True)
class UsageRecord:
    source: str
    event_id: str
    fingerprint: bytes
    region: str
    tenant_id: str
    shard: int
    sku: str
    quantity: int
    used_from_us: int
    priced: bool
    replaced_source: str | None = None
    replaced_id: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.source, self.event_id

    @property
    def is_replaced(self) -> bool:
        return self.replaced_id is not None


async def load_usage(connection: Connection, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], UsageRecord]:
    """The records of these (source, id) that were accepted."""
    rows = await connection.fetch(
        """
        select u.* from usage_record u
        join unnest($1::text[], $2::text[]) k(source, event_id) using (source, event_id)
        """,
        [key[0] for key in keys],
        [key[1] for key in keys],
    )
    return {(row["source"], row["event_id"]): UsageRecord(*row.values()) for row in rows}


async def insert_usage(connection: Connection, records: Sequence[UsageRecord]) -> None:
    await connection.executemany(
        "insert into usage_record values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        [
            (
                *(item.source, item.event_id, item.fingerprint, item.region, item.tenant_id, item.shard),
                *(item.sku, item.quantity, item.used_from_us, item.priced, item.replaced_source, item.replaced_id),
            )
            for item in records
        ],
    )


async def mark_replaced(connection: Connection, records: Sequence[UsageRecord]) -> None:
    """Write which records took these out. Raises TransientFault if another transaction replaced one meanwhile."""
    if not records:
        return
    done = await connection.execute(
        """
        update usage_record u set replaced_source = k.replaced_source, replaced_id = k.replaced_id
        from unnest($1::text[], $2::text[], $3::text[], $4::text[]) k(source, event_id, replaced_source, replaced_id)
        where (u.source, u.event_id) = (k.source, k.event_id) and u.replaced_id is null
        """,
        [item.source for item in records],
        [item.event_id for item in records],
        [item.replaced_source for item in records],
        [item.replaced_id for item in records],
    )
    if done != f"UPDATE {len(records)}":
        raise TransientFault("a usage record was replaced meanwhile")


async def load_unpriced_usage(connection: Connection, region: str, skus: Collection[str]) -> list[UsageRecord]:
    """Usage that waits for a first price of these SKUs, in a fixed order."""
    rows = await connection.fetch(
        """
        select * from usage_record where region = $1 and sku = any($2::text[]) and not priced and replaced_id is null
        order by shard, source, event_id
        """,
        region,
        list(skus),
    )
    return [UsageRecord(*row.values()) for row in rows]


async def mark_priced(connection: Connection, records: Sequence[UsageRecord]) -> None:
    await connection.execute(
        """
        update usage_record u set priced = true from unnest($1::text[], $2::text[]) k(source, event_id)
        where (u.source, u.event_id) = (k.source, k.event_id)
        """,
        [item.source for item in records],
        [item.event_id for item in records],
    )


async def load_totals(connection: Connection, keys: Collection[TotalKey]) -> dict[TotalKey, int]:
    rows = await connection.fetch(
        """
        select t.* from usage_total t
        join unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
          k(region, tenant_id, sku, price_micros, unit_size) using (region, tenant_id, sku, price_micros, unit_size)
        """,
        *_columns(keys),
    )
    return {(row[0], row[1], row[2], row[3], row[4]): row["quantity"] for row in rows}


async def load_all_totals(connection: Connection) -> dict[TotalKey, int]:
    rows = await connection.fetch(
        "select region, tenant_id, sku, price_micros, unit_size, quantity from usage_total order by 1, 2, 3, 4, 5"
    )
    return {(row[0], row[1], row[2], row[3], row[4]): row["quantity"] for row in rows}


async def upsert_totals(
    connection: Connection, totals: Mapping[TotalKey, int], used_until_us: Mapping[TotalKey, int]
) -> None:
    """Write sums, and where the latest usage that ever joined each begins; both have the same keys."""
    await connection.execute(
        """
        insert into usage_total (region, tenant_id, sku, price_micros, unit_size, quantity, used_until)
        select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[],
                             $7::timestamptz[])
        on conflict (region, tenant_id, sku, price_micros, unit_size) do update
        set quantity = excluded.quantity, used_until = greatest(usage_total.used_until, excluded.used_until)
        """,
        *_columns(totals),
        list(totals.values()),
        [used_until_us[key] for key in totals],
    )


async def load_used_until(connection: Connection, region: str, skus: Collection[str]) -> dict[str, int]:
    """Where the latest usage that was charged of each SKU begins; without those of which none was."""
    rows = await connection.fetch(
        """
        select sku, max(used_until) as used_until from usage_total
        where region = $1 and sku = any($2::text[]) group by sku
        """,
        region,
        list(skus),
    )
    return {row["sku"]: row["used_until"] for row in rows}


def _columns(keys: Collection[TotalKey]) -> tuple[list[str], list[str], list[str], list[int], list[int]]:
    return (
        [key[0] for key in keys],
        [key[1] for key in keys],
        [key[2] for key in keys],
        [key[3] for key in keys],
        [key[4] for key in keys],
    )


async def count_unpriced(connection: Connection) -> int:
    """How many usage records wait for a first price of their SKU."""
    return int(await connection.fetchval("select count(*) from usage_record where not priced and replaced_id is null"))


@dataclass(frozen=True, slots=True)
class UnpricedSku:
    """A SKU without a price, and who uses it; `kind` is that of its lines. `since_us` is of its oldest usage."""

    region: str
    kind: str
    sku: str
    items: int
    tenant_id: str
    since_us: int | None


async def load_unpriced_skus(connection: Connection, limit: int) -> list[UnpricedSku]:
    """SKUs that wait for a first price, the most used first, each with one of its tenants."""
    rows = await connection.fetch(
        """
        select region, 'service' as kind, sku, count(*) as items, min(tenant_id) as tenant_id, min(used_from) as since
        from usage_record where not priced and replaced_id is null group by region, sku
        union all
        select u.region, u.kind, u.sku, count(*), coalesce(min(r.tenant_id), ''), null
        from unpriced_resource u left join resource r using (region, resource_id) group by u.region, u.kind, u.sku
        order by items desc, region, kind, sku limit $1
        """,
        limit,
    )
    return [UnpricedSku(*row.values()) for row in rows]


async def count_unpriced_resources(connection: Connection) -> int:
    """How many resources use a SKU that has no price."""
    return int(await connection.fetchval("select count(distinct (region, resource_id)) from unpriced_resource"))
