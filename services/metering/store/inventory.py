"""SQL of inventory: pages as they come, and each source's last complete listing."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from shared.db import Connection
from shared.events.lifecycle import InventoryObserved


@dataclass(frozen=True, slots=True)
class Listing:
    """A source's last complete listing; `next_shard` is the first shard whose resources are not compared with it yet.

    A source that never listed has the empty `snapshot`, at its first resource's creation.
    """

    region: str
    source: str
    snapshot: str
    observed_at_us: int
    listing_id: str
    next_shard: int
    resources: int


class Item(NamedTuple):
    """A resource as its source lists it; sizes are None where it says nothing of them."""

    resource_id: str
    tenant_id: str
    state: str
    gpu_sku: str | None
    gpu_count: int | None
    persistent_storage_gb: int | None
    size_gb: int | None


@dataclass(frozen=True, slots=True)
class PageCount:
    """How many pages of a snapshot have come, and whether they agree on time and number."""

    pages: int
    agree: bool


async def lock_source(connection: Connection, region: str, source: str) -> None:
    """Let the pages of a source come one after another, whoever takes them in."""
    await connection.execute("select pg_advisory_xact_lock(hashtextextended($1, 4711))", f"inventory {region} {source}")


async def insert_page(connection: Connection, page: InventoryObserved, content: bytes) -> bytes:
    """Keep a page; return the content hash of what is kept, which is another one's if the page came before."""
    await connection.execute(
        """
        insert into inventory_page (region, source, snapshot, page, pages, observed_at, content)
        values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing
        """,
        page.data.region,
        page.source,
        page.data.snapshot,
        page.data.page,
        page.data.pages,
        page.time,
        content,
    )
    kept: bytes = await connection.fetchval(
        "select content from inventory_page where (region, source, snapshot, page) = ($1, $2, $3, $4)",
        page.data.region,
        page.source,
        page.data.snapshot,
        page.data.page,
    )
    return kept


async def count_pages(connection: Connection, page: InventoryObserved) -> PageCount:
    row = await connection.fetchrow(
        """
        select count(*) as pages, count(distinct (observed_at, pages)) as shapes from inventory_page
        where region = $1 and source = $2 and snapshot = $3
        """,
        page.data.region,
        page.source,
        page.data.snapshot,
    )
    assert row is not None
    return PageCount(row["pages"], row["shapes"] == 1)


async def insert_parts(connection: Connection, page: InventoryObserved, parts: Mapping[int, Sequence[Item]]) -> None:
    """Keep what a page lists, by shard."""
    await connection.execute(
        """
        insert into inventory_part (region, source, snapshot, page, shard, items)
        select $1, $2, $3, $4, p.* from unnest($5::int[], $6::bytea[]) p(shard, items) on conflict do nothing
        """,
        page.data.region,
        page.source,
        page.data.snapshot,
        page.data.page,
        list(parts),
        [orjson.dumps([tuple(item) for item in items]) for items in parts.values()],
    )


async def load_items(connection: Connection, listing: Listing, shard: int) -> Iterator[Item]:
    """What a listing says of one shard's accounts, page after page; each is read as it is asked for."""
    rows = await connection.fetch(
        """
        select items from inventory_part
        where region = $1 and source = $2 and snapshot = $3 and shard = $4 order by page
        """,
        listing.region,
        listing.source,
        listing.snapshot,
        shard,
    )
    return (Item(*item) for row in rows for item in orjson.loads(row["items"]))


async def delete_pages(connection: Connection, listing: Listing) -> None:
    """Forget the source's pages up to this listing: an older one that never came whole says nothing now."""
    await connection.execute(
        """
        with old as (
          delete from inventory_page where region = $1 and source = $2 and observed_at <= $3 returning snapshot, page
        )
        delete from inventory_part p using old
        where p.region = $1 and p.source = $2 and (p.snapshot, p.page) = (old.snapshot, old.page)
        """,
        listing.region,
        listing.source,
        listing.observed_at_us,
    )


async def expect_sources(connection: Connection, sources: Collection[tuple[str, str, int]]) -> None:
    """Expect listings of these (region, source), from an instant on."""
    await connection.executemany(
        """
        insert into inventory_source (region, source, snapshot, observed_at, listing_id, next_shard, resources)
        values ($1, $2, '', $3, '', 2147483647, 0) on conflict do nothing
        """,
        sorted(sources),
    )


async def load_observed_at(connection: Connection, region: str, source: str) -> int | None:
    """When the source's last complete listing was observed; None if it never listed."""
    observed_at_us: int | None = await connection.fetchval(
        "select observed_at from inventory_source where region = $1 and source = $2 and snapshot <> ''", region, source
    )
    return observed_at_us


async def save_listing(connection: Connection, listing: Listing) -> None:
    """Begin to compare a complete listing, in place of the source's one before."""
    await connection.execute(
        """
        insert into inventory_source (region, source, snapshot, observed_at, listing_id, next_shard, resources)
        values ($1, $2, $3, $4, $5, $6, $7)
        on conflict (region, source) do update
        set snapshot = excluded.snapshot, observed_at = excluded.observed_at, listing_id = excluded.listing_id,
            next_shard = excluded.next_shard, resources = excluded.resources
        """,
        listing.region,
        listing.source,
        listing.snapshot,
        listing.observed_at_us,
        listing.listing_id,
        listing.next_shard,
        listing.resources,
    )


async def load_listings(connection: Connection) -> list[Listing]:
    rows = await connection.fetch(
        """
        select region, source, snapshot, observed_at, listing_id, next_shard, resources from inventory_source
        order by region, source
        """
    )
    return [Listing(*row.values()) for row in rows]


async def move_on(connection: Connection, listing: Listing, next_shard: int) -> bool:
    """Note that the shards before `next_shard` are compared; False if another worker or a newer listing came first."""
    done = await connection.execute(
        """
        update inventory_source set next_shard = $5
        where region = $1 and source = $2 and snapshot = $3 and next_shard = $4
        """,
        listing.region,
        listing.source,
        listing.snapshot,
        listing.next_shard,
        next_shard,
    )
    return done == "UPDATE 1"


async def has_open_resources(connection: Connection, region: str, source: str) -> bool:
    return bool(
        await connection.fetchval(
            "select exists (select from resource where region = $1 and source = $2 and ends_at is null)", region, source
        )
    )


async def count_resources(connection: Connection, listing: Listing, more: int) -> None:
    """Add to how many resources the listing names, as its shards are compared."""
    await connection.execute(
        "update inventory_source set resources = resources + $4 where region = $1 and source = $2 and snapshot = $3",
        listing.region,
        listing.source,
        listing.snapshot,
        more,
    )
