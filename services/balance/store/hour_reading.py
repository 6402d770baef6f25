"""SQL of Credit History: pages and totals of closed hours, and where a shard's open part begins."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.db import Connection, day_of


@dataclass(frozen=True, slots=True)
class HourRow:
    """What slots of one resource and kind cost in an hour of posting. `is_open`: read live, more may come."""

    hour_us: int
    resource_id: str
    kind: str
    slots: int
    amount_micros: int
    is_open: bool = False


# Where a page ends: (hour, resource_id, kind) of its last row.
RowKey = tuple[int, str, str]


@dataclass(frozen=True, slots=True)
class OpenPart:
    """What of a shard was not in rows at a moment: the batches after `seq` up to `last_seq`, posted from `from_us` on.

    Rows and batches are append-only, so that the moment can be read again as long as they are kept.
    """

    seq: int
    from_us: int
    last_seq: int


async def load_open_part(connection: Connection, shard: int) -> OpenPart:
    row = await connection.fetchrow(
        """
        select coalesce(h.seq, 0) as seq, coalesce(h.through, 'epoch') as through, coalesce(c.seq, 0) as last_seq
        from (select $1::int as shard) s
        left join hour_head h on h.shard = s.shard left join charge_stream c on c.shard = s.shard
        """,
        shard,
    )
    assert row is not None
    return OpenPart(row["seq"], row["through"], row["last_seq"])


async def load_hours(
    connection: Connection, account_id: int, from_us: int, to_us: int, after: RowKey | None, limit: int
) -> list[HourRow]:
    """Rows of closed hours in [from, to) after a key, by hour, resource and kind."""
    after_us, resource_id, kind = after or (from_us - 1, "", "")
    first_us = max(from_us, after_us)
    if first_us >= to_us:
        return []
    rows = await connection.fetch(
        """
        select hour, resource_id, kind, slots, amount_micros from resource_hour
        where account_id = $1 and day >= $2 and day <= $3 and hour >= $4 and hour < $5
          and (hour, resource_id, kind) > ($6, $7, $8)
        order by hour, resource_id, kind limit $9
        """,
        account_id,
        day_of(first_us),
        day_of(to_us),
        first_us,
        to_us,
        after_us,
        resource_id,
        kind,
        limit,
    )
    return [HourRow(*row) for row in rows]


async def sum_hours(
    connection: Connection, account_id: int, from_us: int, to_us: int
) -> Sequence[tuple[str, int, int]]:
    """(kind, slots, amount_micros) over the closed hours in [from, to), by kind."""
    rows = await connection.fetch(
        """
        select kind, sum(slots)::text as slots, sum(amount_micros)::text as amount_micros from resource_hour
        where account_id = $1 and day >= $2 and day <= $3 and hour >= $4 and hour < $5 group by kind order by kind
        """,
        account_id,
        day_of(from_us),
        day_of(to_us),
        from_us,
        to_us,
    )
    return [(row["kind"], int(row["slots"]), int(row["amount_micros"])) for row in rows]


async def sum_resource(
    connection: Connection, account_id: int, resource_id: str, before_us: int
) -> Sequence[tuple[str, int, int]]:
    """(kind, slots, amount_micros) of one resource over its closed hours before an instant, by kind."""
    rows = await connection.fetch(
        """
        select kind, sum(slots)::text as slots, sum(amount_micros)::text as amount_micros from resource_hour
        where account_id = $1 and resource_id = $2 and hour < $3 group by kind order by kind
        """,
        account_id,
        resource_id,
        before_us,
    )
    return [(row["kind"], int(row["slots"]), int(row["amount_micros"])) for row in rows]
