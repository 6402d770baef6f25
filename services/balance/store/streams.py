"""Charge streams: their positions, what waits, and the evidence of what was posted."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.balance.rules.stream import Arrival
from shared.db import Connection, day_of


@dataclass(frozen=True, slots=True)
class StreamRow:
    shard: int
    seq: int
    stopped_reason: str | None
    has_waiting: bool


async def lock_streams(connection: Connection, shards: Sequence[int]) -> dict[int, StreamRow]:
    """Lock the streams of `shards` (ascending), making those that are not there."""
    query = """
        select s.shard, s.seq, s.stopped_reason,
               exists (select from charge_waiting w where w.shard = s.shard) as has_waiting
        from charge_stream s where s.shard = any($1::int[]) order by s.shard for update of s
        """
    rows = await connection.fetch(query, shards)
    if len(rows) < len(shards):
        await connection.execute(
            "insert into charge_stream (shard) select * from unnest($1::int[]) order by 1 on conflict do nothing",
            shards,
        )
        rows = await connection.fetch(query, shards)
    return {row["shard"]: StreamRow(*row) for row in rows}


async def move_streams(connection: Connection, positions: dict[int, int]) -> None:
    await connection.execute(
        """
        update charge_stream s set seq = m.seq
        from unnest($1::int[], $2::bigint[]) m(shard, seq) where s.shard = m.shard
        """,
        list(positions),
        list(positions.values()),
    )


async def stop_stream(connection: Connection, shard: int, reason: str, now_us: int) -> None:
    await connection.execute(
        "update charge_stream set stopped_reason = $2, stopped_at = $3 where shard = $1", shard, reason, now_us
    )


async def resume_stream(connection: Connection, shard: int, actor: str, reason: str, now_us: int) -> int:
    """Let a stream that is locked and stopped go on; answer the resumption's id."""
    resumption_id: int = await connection.fetchval(
        """
        insert into stream_resumption (shard, seq, stopped_reason, stopped_at, resumed_at, actor, reason)
        select shard, seq, stopped_reason, stopped_at, $2, $3, $4 from charge_stream where shard = $1
        returning resumption_id
        """,
        shard,
        now_us,
        actor,
        reason,
    )
    await connection.execute(
        "update charge_stream set stopped_reason = null, stopped_at = null where shard = $1", shard
    )
    return resumption_id


async def set_conflicts_aside(connection: Connection, shard: int, resumption_id: int) -> int:
    """Keep what waits under a number that was posted with other contents; answer how many batches."""
    status = await connection.execute(
        """
        with passed as (
          delete from charge_waiting w using charge_stream s
          where w.shard = $1 and s.shard = w.shard and w.seq <= s.seq returning w.*
        )
        insert into charge_set_aside (shard, seq, sha256, value, arrived_at, resumption_id)
        select p.shard, p.seq, p.sha256, p.value, p.arrived_at, $2 from passed p
        where not exists (select from evidence e where (e.shard, e.seq, e.sha256) = (p.shard, p.seq, p.sha256))
        on conflict do nothing
        """,
        shard,
        resumption_id,
    )
    return int(status.rpartition(" ")[2])


async def insert_waiting(connection: Connection, arrivals: Sequence[Arrival], now_us: int) -> None:
    await connection.execute(
        """
        insert into charge_waiting (shard, seq, sha256, value, arrived_at)
        select *, $5 from unnest($1::int[], $2::bigint[], $3::bytea[], $4::bytea[]) order by 1, 2 on conflict do nothing
        """,
        [arrival.batch.shard for arrival in arrivals],
        [arrival.batch.seq for arrival in arrivals],
        [arrival.sha256 for arrival in arrivals],
        [arrival.value for arrival in arrivals],
        now_us,
    )


async def delete_waiting(connection: Connection, arrivals: Sequence[Arrival]) -> None:
    await connection.execute(
        """
        delete from charge_waiting w using unnest($1::int[], $2::bigint[], $3::bytea[]) d(shard, seq, sha256)
        where (w.shard, w.seq, w.sha256) = (d.shard, d.seq, d.sha256)
        """,
        [arrival.batch.shard for arrival in arrivals],
        [arrival.batch.seq for arrival in arrivals],
        [arrival.sha256 for arrival in arrivals],
    )


async def load_waiting(connection: Connection, shard: int, limit: int) -> list[bytes]:
    """The values of the first batches that wait in a stream, in order."""
    rows = await connection.fetch(
        "select value from charge_waiting where shard = $1 order by seq limit $2", shard, limit
    )
    return [row["value"] for row in rows]


@dataclass(frozen=True, slots=True)
class Gap:
    """A stream that waits for `from_seq`; `is_filled` when what waits can be posted now."""

    shard: int
    from_seq: int
    is_filled: bool


async def load_gaps(connection: Connection) -> list[Gap]:
    rows = await connection.fetch(
        """
        select s.shard, s.seq + 1 as from_seq, w.first <= s.seq + 1 as is_filled
        from charge_stream s join (select shard, min(seq) as first from charge_waiting group by shard) w using (shard)
        where s.stopped_reason is null order by s.shard
        """
    )
    return [Gap(**row) for row in rows]


async def load_known_hashes(
    connection: Connection, batches: Sequence[tuple[int, int]]
) -> dict[int, dict[int, set[bytes]]]:
    """The hashes of what was posted, or set aside, under (shard, seq) pairs, by shard and seq."""
    if not batches:
        return {}
    rows = await connection.fetch(
        """
        with b as (select * from unnest($1::int[], $2::bigint[]) b(shard, seq))
        select e.shard, e.seq, e.sha256 from b join evidence e using (shard, seq)
        union all select a.shard, a.seq, a.sha256 from b join charge_set_aside a using (shard, seq)
        """,
        [shard for shard, _ in batches],
        [seq for _, seq in batches],
    )
    known: dict[int, dict[int, set[bytes]]] = {}
    for shard, seq, digest in rows:
        known.setdefault(shard, {}).setdefault(seq, set()).add(digest)
    return known


async def insert_evidence(connection: Connection, posted: Sequence[tuple[Arrival, int]]) -> None:
    """Keep the bytes of batches, each with its posting time."""
    await connection.execute(
        """
        insert into evidence (shard, seq, sha256, value, day, posted_at)
        select * from unnest($1::int[], $2::bigint[], $3::bytea[], $4::bytea[], $5::date[], $6::timestamptz[])
        """,
        [arrival.batch.shard for arrival, _ in posted],
        [arrival.batch.seq for arrival, _ in posted],
        [arrival.sha256 for arrival, _ in posted],
        [arrival.value for arrival, _ in posted],
        [day_of(posted_at_us) for _, posted_at_us in posted],
        [posted_at_us for _, posted_at_us in posted],
    )


async def load_evidence(connection: Connection, shard: int, seq: int) -> bytes | None:
    value: bytes | None = await connection.fetchval(
        "select value from evidence where shard = $1 and seq = $2", shard, seq
    )
    return value
