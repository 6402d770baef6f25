"""Closing hours: which are over, the evidence of one, and its rows.

`chain_head.closed_through` says before which instant nothing is posted any more; `hour_head` how far rows are written.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

from shared.clock import HOUR_US
from shared.db import Connection, day_of

_PREFETCH_BATCHES = 4
# An hour in which nothing was posted is never closed by itself: a shard at rest costs nothing, and a clock that jumps
# ahead by mistake drags no posting time along.
_THROUGH = """least(
    date_bin('1 hour', last_posted_at, 'epoch'::timestamptz) + interval '1 hour',
    date_bin('1 hour', $1::timestamptz, 'epoch'::timestamptz))"""
_IS_DUE = f"link_number > 0 and {_THROUGH} > closed_through"
_SEAL = f"""
with due as (
  select shard, {_THROUGH} as through
  from chain_head where ($2::int is null or shard = $2) and {_IS_DUE} order by shard for update %s
), noted as (
  insert into hour_head (shard) select shard from due on conflict do nothing
)
update chain_head h set closed_through = d.through from due d where h.shard = d.shard
"""  # noqa: S608 - constants


async def seal_free_shards(connection: Connection, now_us: int) -> None:
    """Close to posting the hours that are over, of all shards to which nobody posts at this moment."""
    await connection.execute(_SEAL % "skip locked", now_us, None)


async def seal_shard(connection: Connection, now_us: int, shard: int) -> None:
    """Close to posting the hours of one shard that are over, after whoever posts to it now."""
    await connection.execute(_SEAL % "", now_us, shard)


async def load_unsealed(connection: Connection, now_us: int) -> list[int]:
    """Shards with hours that are over and still open to posting."""
    query = f"select shard from chain_head where {_IS_DUE} order by shard"  # noqa: S608 - a constant
    rows = await connection.fetch(query, now_us)
    return [row["shard"] for row in rows]


async def load_unwritten(connection: Connection, kind: str, now_us: int, limit: int) -> list[int]:
    """Shards whose closed hours are not all written and that are not set aside, the furthest behind first."""
    rows = await connection.fetch(
        """
        select h.shard from hour_head h join chain_head c using (shard)
        where h.through < c.closed_through and not exists (
          select from set_aside s where (s.kind, s.item) = ($1, h.shard::text) and still_held(s, $2))
        order by h.through, h.shard limit $3
        """,
        kind,
        now_us,
        limit,
    )
    return [row["shard"] for row in rows]


@dataclass(frozen=True, slots=True)
class HourHead:
    """How far a shard's rows are written, and up to where they may be."""

    shard: int
    seq: int
    through_us: int
    closed_through_us: int


async def lock_hour_heads(connection: Connection, shards: Sequence[int]) -> list[HourHead]:
    """Lock those of `shards` that still have hours to write and that no other closer holds."""
    rows = await connection.fetch(
        """
        select h.shard, h.seq, h.through, c.closed_through from hour_head h join chain_head c using (shard)
        where h.shard = any($1::int[]) and h.through < c.closed_through
        order by h.shard for update of h skip locked
        """,
        shards,
    )
    return [HourHead(*row) for row in rows]


async def load_next_posting(connection: Connection, head: HourHead) -> int | None:
    """When the first batch after those written was posted, if that is in a closed hour."""
    posted_at_us: int | None = await connection.fetchval(
        """
        select posted_at from evidence where shard = $1 and seq > $2 and day >= $3 and day <= $4 and posted_at < $5
        order by seq limit 1
        """,
        head.shard,
        head.seq,
        day_of(head.through_us),
        day_of(head.closed_through_us),
        head.closed_through_us,
    )
    return posted_at_us


@dataclass(frozen=True, slots=True)
class Proof:
    """A posted batch's number, posting time and bytes."""

    seq: int
    posted_at_us: int
    value: bytes


async def read_evidence(
    connection: Connection, shard: int, after_seq: int, from_us: int, to_us: int, last_seq: int = 2**63 - 1
) -> AsyncIterator[Proof]:
    """A shard's batches after one and up to another, posted in [from, to), in order."""
    query = """
        select seq, posted_at, value from evidence
        where shard = $1 and seq > $2 and seq <= $7 and day >= $3 and day <= $4 and posted_at >= $5 and posted_at < $6
        order by seq
        """
    bounds = (after_seq, day_of(from_us), day_of(to_us), from_us, to_us, last_seq)
    async for row in connection.cursor(query, shard, *bounds, prefetch=_PREFETCH_BATCHES):
        yield Proof(*row)
        # What was fetched ahead comes without a pause, and a large batch takes its reader a while: let others run.
        await asyncio.sleep(0)


# (account_id, resource_id, kind, slots, amount_micros)
Part = tuple[int, str, str, int, int]


async def make_staging(connection: Connection) -> None:
    """Where a transaction's parts of rows lie until they are summed up, so that no process has to hold them all."""
    await connection.execute(
        """
        create temporary table if not exists hour_part (
          account_id bigint, resource_id text collate "C", kind text collate "C", slots bigint, amount_micros bigint
        ) on commit delete rows
        """
    )


async def stage(connection: Connection, parts: Iterable[Part]) -> None:
    await connection.copy_records_to_table("hour_part", records=parts)


@dataclass(frozen=True, slots=True)
class HourDifference:
    """Where an hour's rows and its entries disagree."""

    account_id: int
    kind: str
    rows_micros: int
    entries_micros: int


async def write_hour(connection: Connection, hour_us: int, shards: Sequence[int]) -> list[HourDifference]:
    """Insert an hour's rows from what is staged; answer where they are not what the shards' entries of it sum to."""
    rows = await connection.fetch(
        """
        with written as (
          insert into resource_hour (day, hour, account_id, resource_id, kind, slots, amount_micros)
          select $1, $2, account_id, resource_id, kind, sum(slots), sum(amount_micros)
          from hour_part group by account_id, resource_id, kind order by account_id, resource_id, kind
          returning account_id, kind, amount_micros
        ), hours as (
          select account_id, kind, sum(amount_micros) as amount_micros from written group by 1, 2
        ), posted as (
          select account_id, sum(case when debit_account = 'customer' then amount_micros else -amount_micros end)
              as amount_micros,
            substr(case when debit_account = 'customer' then credit_account else debit_account end,
              length('revenue:') + 1) collate "C" as kind
          from entry
          where day = $1 and posted_at >= $2 and posted_at < $3 and shard = any($4::int[])
            and class in ('charge', 'credit_correction', 'debit_correction')
          group by account_id, kind
        )
        select account_id, kind, coalesce(h.amount_micros, 0)::text, coalesce(p.amount_micros, 0)::text
        from hours h full join posted p using (account_id, kind)
        where coalesce(h.amount_micros, 0) <> coalesce(p.amount_micros, 0) limit 10
        """,
        day_of(hour_us),
        hour_us,
        hour_us + HOUR_US,
        shards,
    )
    return [HourDifference(row[0], row[1], int(row[2]), int(row[3])) for row in rows]


async def move_hour_heads(connection: Connection, moves: Sequence[tuple[int, int, int]]) -> None:
    """Set (shard, seq, through) of locked heads."""
    await connection.execute(
        """
        update hour_head h set seq = m.seq, through = m.through
        from unnest($1::int[], $2::bigint[], $3::timestamptz[]) m(shard, seq, through) where h.shard = m.shard
        """,
        [shard for shard, _, _ in moves],
        [seq for _, seq, _ in moves],
        [through_us for _, _, through_us in moves],
    )
