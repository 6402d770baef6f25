"""SQL of contradictions: what was said and can't be."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from shared.db import Connection

# Those that a history makes by itself: they come and go with it.
OF_HISTORY = ("ends_no_run", "run_has_begun", "after_the_end", "number_twice")


@dataclass(frozen=True, slots=True)
class Contradiction:
    """`kind` names it, `source` and `event_id` the event (or the listing) that says so."""

    region: str
    resource_id: str
    kind: str
    source: str
    event_id: str
    tenant_id: str
    detail: str
    noted_at_us: int


async def insert_contradictions(connection: Connection, items: Collection[Contradiction]) -> None:
    """Note what is not noted yet."""
    await connection.executemany(
        """
        insert into contradiction (region, resource_id, kind, source, event_id, tenant_id, detail, noted_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing
        """,
        [
            (
                *(item.region, item.resource_id, item.kind, item.source, item.event_id),
                *(item.tenant_id, item.detail, item.noted_at_us),
            )
            for item in items
        ],
    )


async def delete_of_history(connection: Connection, resources: Collection[tuple[str, str]]) -> None:
    """Forget what the histories of resources made."""
    await connection.execute(
        """
        delete from contradiction c using unnest($1::text[], $2::text[]) k(region, resource_id)
        where (c.region, c.resource_id) = (k.region, k.resource_id) and c.kind = any($3::text[])
        """,
        [key[0] for key in resources],
        [key[1] for key in resources],
        list(OF_HISTORY),
    )


async def delete_older_listings(connection: Connection, region: str, source: str, snapshot: str) -> None:
    """Forget what a source's listings before this one contradicted."""
    await connection.execute(
        """
        delete from contradiction
        where kind = 'inventory' and region = $1 and source = $2 and event_id <> $3
        """,
        region,
        source,
        snapshot,
    )


async def close_contradiction(connection: Connection, key: Sequence[str]) -> bool:
    """Forget a (region, resource, kind, source, id) by an operator's word; False if there is none."""
    done = await connection.execute(
        """
        delete from contradiction
        where (region, resource_id, kind, source, event_id) = ($1, $2, $3, $4, $5) and not (kind = any($6::text[]))
        """,
        *key,
        list(OF_HISTORY),
    )
    return done == "DELETE 1"


async def list_contradictions(
    connection: Connection,
    *,
    kind: str | None,
    region: str | None,
    tenant_id: str | None,
    resource_id: str | None,
    after: Sequence[str],
    limit: int,
) -> list[Contradiction]:
    """Contradictions by (region, resource, kind, source, id), after one of these."""
    rows = await connection.fetch(
        """
        select region, resource_id, kind, source, event_id, tenant_id, detail, noted_at from contradiction
        where (region, resource_id, kind, source, event_id) > ($1, $2, $3, $4, $5)
          and ($6::text is null or kind = $6) and ($7::text is null or region = $7)
          and ($8::text is null or tenant_id = $8) and ($9::text is null or resource_id = $9)
        order by region, resource_id, kind, source, event_id limit $10
        """,
        *after,
        kind,
        region,
        tenant_id,
        resource_id,
        limit,
    )
    return [Contradiction(*row.values()) for row in rows]


async def count_contradictions(connection: Connection) -> dict[str, int]:
    rows = await connection.fetch("select kind, count(*) as items from contradiction group by kind order by kind")
    return {row["kind"]: row["items"] for row in rows}
