"""SQL of inventory pages and alarms."""

from collections.abc import Mapping
from typing import Any

from shared.db import Connection
from shared.events.lifecycle import InventoryObserved


async def insert_page(connection: Connection, page: InventoryObserved) -> None:
    await connection.execute(
        """
        insert into inventory_page (region, source, snapshot, page, pages, observed_at, body)
        values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing
        """,
        page.data.region,
        page.source,
        page.data.snapshot,
        page.data.page,
        page.data.pages,
        page.time,
        page.model_dump_json().encode(),
    )


async def load_pages(connection: Connection, page: InventoryObserved) -> list[InventoryObserved]:
    rows = await connection.fetch(
        "select body from inventory_page where region = $1 and source = $2 and snapshot = $3 order by page",
        page.data.region,
        page.source,
        page.data.snapshot,
    )
    return [InventoryObserved.model_validate_json(row["body"]) for row in rows]


async def delete_pages(connection: Connection, page: InventoryObserved) -> None:
    """Forget the source's pages up to this complete snapshot: an older one that never came whole says nothing now."""
    await connection.execute(
        "delete from inventory_page where region = $1 and source = $2 and observed_at <= $3",
        page.data.region,
        page.source,
        page.time,
    )


async def load_open_keys(connection: Connection, region: str, at_us: int) -> set[tuple[str, str]]:
    """The (region, resource id) of the region's resources whose charges had not ended at an instant."""
    rows = await connection.fetch(
        "select resource_id from resource where region = $1 and (ends_at is null or ends_at > $2)", region, at_us
    )
    return {(region, row["resource_id"]) for row in rows}


async def insert_alarms(connection: Connection, page: InventoryObserved, problems: Mapping[str, str]) -> None:
    await connection.executemany(
        """
        insert into inventory_alarm (region, source, snapshot, resource_id, problem, observed_at)
        values ($1, $2, $3, $4, $5, $6) on conflict do nothing
        """,
        [
            (page.data.region, page.source, page.data.snapshot, resource_id, problem, page.time)
            for resource_id, problem in sorted(problems.items())
        ],
    )


async def list_alarms(connection: Connection, limit: int) -> list[dict[str, Any]]:
    rows = await connection.fetch(
        "select * from inventory_alarm order by observed_at desc, resource_id limit $1", limit
    )
    return [dict(row) for row in rows]
