"""SQL of a restore that is being settled."""

from collections.abc import Collection, Mapping

import asyncpg

from services.metering.rules.prices import GPU, STORAGE
from services.metering.rules.restore import Charged, ChargeKey
from shared.db import Connection


async def delete_charged(connection: Connection) -> None:
    await connection.execute("delete from restore_charged")


async def insert_charged(connection: Connection, shard: int, charged: Mapping[ChargeKey, Charged]) -> None:
    await connection.execute(
        """
        insert into restore_charged
        select $1, * from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[],
                                 $8::bigint[], $9::bigint[], $10::bigint[])
        """,
        shard,
        [key.region for key in charged],
        [key.tenant_id for key in charged],
        [key.resource_id for key in charged],
        [key.kind for key in charged],
        [item.sku for item in charged.values()],
        [item.slot_from for item in charged.values()],
        [item.slots for item in charged.values()],
        [item.price_micros for item in charged.values()],
        [item.amount_micros for item in charged.values()],
    )


async def load_charged(connection: Connection, shard: int) -> dict[ChargeKey, Charged]:
    rows = await connection.fetch(
        """
        select region, tenant_id, resource_id, kind, sku, slot_from, slots, price_micros, amount_micros
        from restore_charged where shard = $1
        """,
        shard,
    )
    return dict(map(_charged, rows))


async def load_owners(connection: Connection, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Which tenant alone was charged for these (region, resource id) before a restore; others are left out."""
    rows = await connection.fetch(
        """
        select c.region, c.resource_id, min(c.tenant_id) as tenant_id from restore_charged c
        join unnest($1::text[], $2::text[]) k(region, resource_id) using (region, resource_id)
        where c.kind = any($3::text[]) group by c.region, c.resource_id having count(distinct c.tenant_id) = 1
        """,
        [key[0] for key in keys],
        [key[1] for key in keys],
        [GPU, STORAGE],
    )
    return {(row["region"], row["resource_id"]): row["tenant_id"] for row in rows}


def _charged(row: asyncpg.Record) -> tuple[ChargeKey, Charged]:
    values = tuple(row)
    return ChargeKey(*values[:4]), Charged(*values[4:])
