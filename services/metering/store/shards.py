"""SQL of shards, account burn and halts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.db import Connection
from shared.errors import Corruption

# Ticks and intake share it, a price book's publisher holds it alone.
_PRICES_LOCK = "hashtext('tollkeeper.prices')"


@dataclass(frozen=True, slots=True)
class Shard:
    shard: int
    seq: int
    version: int
    metered_through_us: int


async def ensure_shards(connection: Connection, shards: int, now_us: int) -> None:
    """Make the shards' rows at first start. Raises Corruption if the database was made with another number."""
    await connection.execute("insert into deployment (shards) values ($1) on conflict do nothing", shards)
    known = await connection.fetchval("select shards from deployment")
    if known != shards:
        raise Corruption(f"this database has {known} shards; the setting says {shards}: set it back")
    await connection.execute(
        """
        insert into shard (shard, metered_through)
        select s, $2 from generate_series(0, $1 - 1) s on conflict do nothing
        """,
        shards,
        now_us,
    )
    await connection.execute(
        "insert into outbox_cursor (stream) select s from generate_series(0, $1 - 1) s on conflict do nothing", shards
    )


async def share_prices(connection: Connection) -> int:
    """Hold the prices as they are until the transaction ends; answer the version of the last book."""
    await connection.execute(f"select pg_advisory_xact_lock_shared({_PRICES_LOCK})")
    return await load_book_version(connection)


async def lock_prices(connection: Connection) -> int:
    """Keep every tick and intake out until the transaction ends; answer the version of the last book."""
    await connection.execute(f"select pg_advisory_xact_lock({_PRICES_LOCK})")
    return await load_book_version(connection)


async def load_book_version(connection: Connection) -> int:
    return int(await connection.fetchval("select coalesce(max(version), 0) from price_book"))


async def lock_shards(connection: Connection, shards: Sequence[int]) -> dict[int, Shard]:
    rows = await connection.fetch("select * from shard where shard = any($1::int[]) order by shard for update", shards)
    return {row["shard"]: Shard(*row.values()) for row in rows}


async def lock_all_shards(connection: Connection) -> dict[int, Shard]:
    rows = await connection.fetch("select * from shard order by shard for update")
    return {row["shard"]: Shard(*row.values()) for row in rows}


async def load_shards(connection: Connection) -> list[Shard]:
    """All shards as committed now, without a lock."""
    return [Shard(*row.values()) for row in await connection.fetch("select * from shard order by shard")]


async def lock_due_shards(connection: Connection, due_us: int, limit: int, left_out: Sequence[int] = ()) -> list[Shard]:
    """Lock shards that are metered to no later than `due_us` and that nobody else holds, those furthest behind first.

    Who skips what is locked waits for nobody, so the order of the locks does not matter.
    """
    rows = await connection.fetch(
        """
        select * from shard where metered_through <= $1 and not (shard = any($3::int[]))
        order by metered_through, shard limit $2 for update skip locked
        """,
        due_us,
        limit,
        list(left_out),
    )
    return [Shard(*row.values()) for row in rows]


async def update_shards(connection: Connection, shards: Sequence[Shard]) -> None:
    await connection.execute(
        """
        update shard s set seq = n.seq, version = n.version, metered_through = n.metered_through
        from unnest($1::int[], $2::bigint[], $3::bigint[], $4::timestamptz[]) n(shard, seq, version, metered_through)
        where s.shard = n.shard
        """,
        [item.shard for item in shards],
        [item.seq for item in shards],
        [item.version for item in shards],
        [item.metered_through_us for item in shards],
    )


async def load_through(connection: Connection) -> tuple[int, int]:
    """The earliest and the latest instant to which any shard is metered."""
    row = await connection.fetchrow("select min(metered_through) as low, max(metered_through) as high from shard")
    assert row is not None
    return row["low"], row["high"]


async def load_burns(connection: Connection, shard: int) -> dict[tuple[str, str], int]:
    """Burn per hour as last published, of the shard's accounts that have any."""
    rows = await connection.fetch(
        """
        select region, tenant_id, burn_micros_per_hour from account_burn
        where shard = $1 and burn_micros_per_hour <> 0
        """,
        shard,
    )
    return {(row["region"], row["tenant_id"]): row["burn_micros_per_hour"] for row in rows}


async def load_burns_of(connection: Connection, accounts: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    rows = await connection.fetch(
        """
        select b.region, b.tenant_id, b.burn_micros_per_hour from account_burn b
        join unnest($1::text[], $2::text[]) a(region, tenant_id) using (region, tenant_id)
        """,
        [account[0] for account in accounts],
        [account[1] for account in accounts],
    )
    return {(row["region"], row["tenant_id"]): row["burn_micros_per_hour"] for row in rows}


async def upsert_burns(connection: Connection, burns: Mapping[tuple[str, str], tuple[int, int]]) -> None:
    """Write (shard, burn per hour) by account."""
    if not burns:
        return
    await connection.execute(
        """
        insert into account_burn (region, tenant_id, shard, burn_micros_per_hour)
        select * from unnest($1::text[], $2::text[], $3::int[], $4::bigint[])
        on conflict (region, tenant_id) do update set burn_micros_per_hour = excluded.burn_micros_per_hour
        """,
        [account[0] for account in burns],
        [account[1] for account in burns],
        [shard for shard, _ in burns.values()],
        [burn for _, burn in burns.values()],
    )


async def insert_halt(connection: Connection, reason: str, now_us: int) -> None:
    """Halt the ticks, unless they are halted already."""
    await connection.execute(
        """
        insert into halt (reason, halted_at)
        select $1, $2 where not exists (select from halt where resumed_at is null)
        """,
        reason,
        now_us,
    )


async def load_halt(connection: Connection) -> str | None:
    """Why the ticks are halted; None if they are not."""
    reason: str | None = await connection.fetchval(
        "select reason from halt where resumed_at is null order by halt_number limit 1"
    )
    return reason


async def resume(connection: Connection, actor: str, reason: str, now_us: int) -> int:
    """Let the ticks go on; answer how many halts this ended."""
    rows = await connection.fetch(
        "update halt set resumed_at = $1, resumed_by = $2, resume_reason = $3 where resumed_at is null returning 1",
        now_us,
        actor,
        reason,
    )
    return len(rows)
