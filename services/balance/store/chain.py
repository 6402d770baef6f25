"""Chain heads and links, one head per shard. Whoever posts to a shard holds its head."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.db import Connection


@dataclass(frozen=True, slots=True)
class Head:
    shard: int
    link_number: int
    link: bytes
    last_posted_at_us: int
    closed_through_us: int

    def posting_time(self, now_us: int) -> int:
        """Posting time never goes back, nor into an hour that was closed."""
        return max(now_us, self.last_posted_at_us, self.closed_through_us)


@dataclass(frozen=True, slots=True)
class Link:
    shard: int
    link_number: int
    previous: bytes
    link: bytes
    entries: int
    posted_at_us: int


async def lock_heads(connection: Connection, shards: Sequence[int]) -> list[Head]:
    """Lock the heads of `shards` (ascending), making those that are not there."""
    query = """
        select shard, link_number, link, last_posted_at, closed_through from chain_head
        where shard = any($1::int[]) order by shard for update
        """
    rows = await connection.fetch(query, shards)
    if len(rows) < len(shards):
        await connection.execute(
            "insert into chain_head (shard) select * from unnest($1::int[]) order by 1 on conflict do nothing", shards
        )
        rows = await connection.fetch(query, shards)
    return [Head(*row) for row in rows]


async def load_heads(connection: Connection) -> list[Head]:
    """The heads of all shards that have posted, as committed now, by shard."""
    rows = await connection.fetch(
        "select shard, link_number, link, last_posted_at, closed_through from chain_head "
        "where link_number > 0 order by shard"
    )
    return [Head(*row) for row in rows]


async def insert_links(connection: Connection, links: Sequence[Link]) -> None:
    """Append links and move their heads onto them."""
    await connection.execute(
        """
        with link as (
          insert into chain_link (shard, link_number, previous, link, entries, posted_at)
          select * from unnest($1::int[], $2::bigint[], $3::bytea[], $4::bytea[], $5::int[], $6::timestamptz[])
          returning *
        )
        update chain_head h set link_number = l.link_number, link = l.link, last_posted_at = l.posted_at
        from link l where h.shard = l.shard
        """,
        [link.shard for link in links],
        [link.link_number for link in links],
        [link.previous for link in links],
        [link.link for link in links],
        [link.entries for link in links],
        [link.posted_at_us for link in links],
    )
