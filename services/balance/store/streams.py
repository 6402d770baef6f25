"""Charge streams: their positions, what waits, and the evidence of what was posted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from services.balance.rules.stream import Arrival
from shared.db import Connection, day_of

# A gap that was asked for so often is a person's business; it is asked for on and on.
GAP_ASKED_MAX = 6
DecisionKind = Literal["resumed", "mended", "skipped"]


@dataclass(frozen=True, slots=True)
class StreamRow:
    shard: int
    seq: int
    stopped_seq: int | None
    stopped_reason: str | None
    has_waiting: bool
    charged_through_us: int | None


async def lock_streams(connection: Connection, shards: Sequence[int]) -> dict[int, StreamRow]:
    """Lock the streams of `shards` (ascending), making those that are not there."""
    query = """
        select s.shard, s.seq, s.stopped_seq, s.stopped_reason,
               exists (select from charge_waiting w where w.shard = s.shard) as has_waiting, s.charged_through
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


async def move_streams(connection: Connection, positions: Mapping[int, tuple[int, int | None]]) -> None:
    """Move locked streams to (last posted batch, what it says that is charged up to)."""
    await connection.execute(
        """
        update charge_stream s set seq = m.seq, charged_through = greatest(s.charged_through, m.charged_through)
        from unnest($1::int[], $2::bigint[], $3::timestamptz[]) m(shard, seq, charged_through) where s.shard = m.shard
        """,
        list(positions),
        [seq for seq, _ in positions.values()],
        [through_us for _, through_us in positions.values()],
    )


async def stop_stream(connection: Connection, shard: int, seq: int, reason: str, now_us: int) -> None:
    """Stop a locked stream at batch `seq`."""
    await connection.execute(
        "update charge_stream set stopped_seq = $2, stopped_reason = $3, stopped_at = $4 where shard = $1",
        shard,
        seq,
        reason,
        now_us,
    )


async def release_stream(connection: Connection, shard: int) -> None:
    """Let a locked stream go on."""
    await connection.execute(
        "update charge_stream set stopped_seq = null, stopped_reason = null, stopped_at = null where shard = $1", shard
    )


@dataclass(frozen=True, slots=True)
class Decision:
    """An operator's decision over a stream. `would_post`: what a skipped batch would have posted, as JSON."""

    kind: DecisionKind
    seq: int
    stopped_reason: str
    actor: str
    reason: str
    sha256: bytes | None = None
    would_post: str | None = None


async def insert_decision(connection: Connection, shard: int, decision: Decision, now_us: int) -> int:
    """Keep a decision; answer its id."""
    decision_id: int = await connection.fetchval(
        """
        insert into stream_decision
          (shard, kind, seq, stopped_reason, actor, reason, sha256, would_post, decided_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9) returning decision_id
        """,
        shard,
        decision.kind,
        decision.seq,
        decision.stopped_reason,
        decision.actor,
        decision.reason,
        decision.sha256,
        decision.would_post,
        now_us,
    )
    return decision_id


async def set_conflicts_aside(connection: Connection, shard: int, decision_id: int) -> int:
    """Keep what waits under a number that was posted with other contents; answer how many batches."""
    status = await connection.execute(
        """
        with passed as (
          delete from charge_waiting w using charge_stream s
          where w.shard = $1 and s.shard = w.shard and w.seq <= s.seq returning w.*
        )
        insert into charge_set_aside (shard, seq, sha256, value, arrived_at, decision_id)
        select p.shard, p.seq, p.sha256, p.value, p.arrived_at, $2 from passed p
        where not exists (select from evidence e where (e.shard, e.seq, e.sha256) = (p.shard, p.seq, p.sha256))
        on conflict do nothing
        """,
        shard,
        decision_id,
    )
    return int(status.rpartition(" ")[2])


async def set_aside_waiting(
    connection: Connection, shard: int, seq: int, hashes: Sequence[bytes], decision_id: int
) -> int:
    """Keep batches that wait under a number and will never be posted; answer how many."""
    status = await connection.execute(
        """
        with taken as (
          delete from charge_waiting where shard = $1 and seq = $2 and sha256 = any($3::bytea[]) returning *
        )
        insert into charge_set_aside (shard, seq, sha256, value, arrived_at, decision_id)
        select shard, seq, sha256, value, arrived_at, $4 from taken on conflict do nothing
        """,
        shard,
        seq,
        hashes,
        decision_id,
    )
    return int(status.rpartition(" ")[2])


@dataclass(frozen=True, slots=True)
class Waiting:
    """A batch that waits in a stream."""

    seq: int
    sha256: bytes
    value: bytes
    arrived_at_us: int


async def load_waiting_at(connection: Connection, shard: int, seq: int, limit: int = 10) -> list[Waiting]:
    """What waits under one number."""
    rows = await connection.fetch(
        "select seq, sha256, value, arrived_at from charge_waiting where shard = $1 and seq = $2"
        " order by arrived_at, sha256 limit $3",
        shard,
        seq,
        limit,
    )
    return [Waiting(*row) for row in rows]


async def count_waiting(connection: Connection, shard: int) -> int:
    count: int = await connection.fetchval("select count(*) from charge_waiting where shard = $1", shard)
    return count


@dataclass(frozen=True, slots=True)
class StreamState:
    """A stream as operators see it. `waiting` batches are kept from `first_waiting` on; `asked` times for a gap."""

    shard: int
    seq: int
    stopped_seq: int | None
    stopped_reason: str | None
    stopped_at_us: int | None
    waiting: int
    first_waiting: int | None
    asked: int


_STATES = """
select s.shard, s.seq, s.stopped_seq, s.stopped_reason, s.stopped_at, coalesce(w.count, 0) as waiting, w.first,
       coalesce(g.asked, 0) as asked
from charge_stream s
left join (select shard, count(*) as count, min(seq) as first from charge_waiting group by shard) w using (shard)
left join charge_gap g on g.shard = s.shard and g.from_seq = s.seq + 1
"""


async def load_stream_states(connection: Connection, *, after: int, limit: int, in_trouble: bool) -> list[StreamState]:
    """Streams by shard, after one; `in_trouble`: only those that are stopped or in which something waits."""
    rows = await connection.fetch(
        _STATES
        + """
        where s.shard > $1::bigint and ($3 is false or s.stopped_reason is not null or w.count > 0)
        order by s.shard limit $2
        """,
        after,
        limit,
        in_trouble,
    )
    return [StreamState(*row) for row in rows]


async def load_stream_state(connection: Connection, shard: int) -> StreamState | None:
    row = await connection.fetchrow(_STATES + " where s.shard = $1", shard)
    return None if row is None else StreamState(*row)


async def load_decisions(connection: Connection, shard: int, limit: int = 20) -> list[dict[str, Any]]:
    """The last decisions over a stream, the latest first."""
    rows = await connection.fetch(
        """
        select kind, seq, stopped_reason, actor, reason, sha256, would_post, decided_at from stream_decision
        where shard = $1 order by decision_id desc limit $2
        """,
        shard,
        limit,
    )
    return [dict(row) for row in rows]


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
    """A stream that waits for `from_seq`; `is_filled` when what waits can be posted now; `asked` how often for it."""

    shard: int
    from_seq: int
    is_filled: bool
    asked: int


async def load_gaps(connection: Connection) -> list[Gap]:
    rows = await connection.fetch(
        """
        select s.shard, s.seq + 1 as from_seq, w.first <= s.seq + 1 as is_filled,
               coalesce(g.asked, 0) as asked
        from charge_stream s join (select shard, min(seq) as first from charge_waiting group by shard) w using (shard)
        left join charge_gap g on g.shard = s.shard and g.from_seq = s.seq + 1
        where s.stopped_reason is null order by s.shard
        """
    )
    return [Gap(**row) for row in rows]


async def count_asking(connection: Connection, gap: Gap, now_us: int) -> bool:
    """Count that a gap is asked for; False where another process has just done so."""
    status = await connection.execute(
        """
        insert into charge_gap (shard, from_seq, asked, asked_at) values ($1, $2, 1, $4)
        on conflict (shard) do update
        set from_seq = excluded.from_seq, asked_at = excluded.asked_at,
            asked = case when charge_gap.from_seq = excluded.from_seq then charge_gap.asked else 0 end + 1
        where (charge_gap.from_seq, charge_gap.asked) = ($2, $3) or charge_gap.from_seq <> $2
        """,
        gap.shard,
        gap.from_seq,
        gap.asked,
        now_us,
    )
    return status.endswith(" 1")


async def forget_gaps(connection: Connection) -> None:
    """Forget the gaps that are filled."""
    await connection.execute(
        "delete from charge_gap g using charge_stream s where s.shard = g.shard and s.seq >= g.from_seq"
    )


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
        insert into evidence (shard, seq, sha256, value, day, posted_at, used_from, used_until)
        select * from unnest($1::int[], $2::bigint[], $3::bytea[], $4::bytea[], $5::date[], $6::timestamptz[],
          $7::timestamptz[], $8::timestamptz[])
        """,
        [arrival.batch.shard for arrival, _ in posted],
        [arrival.batch.seq for arrival, _ in posted],
        [arrival.sha256 for arrival, _ in posted],
        [arrival.value for arrival, _ in posted],
        [day_of(posted_at_us) for _, posted_at_us in posted],
        [posted_at_us for _, posted_at_us in posted],
        [arrival.batch.used_from_us for arrival, _ in posted],
        [arrival.batch.used_until_us for arrival, _ in posted],
    )


async def load_position(connection: Connection, shard: int) -> int:
    """The last posted batch of a shard, without a lock."""
    seq: int | None = await connection.fetchval("select seq from charge_stream where shard = $1", shard)
    return seq or 0


async def load_evidence(connection: Connection, shard: int, seq: int) -> bytes | None:
    value: bytes | None = await connection.fetchval(
        "select value from evidence where shard = $1 and seq = $2", shard, seq
    )
    return value
