"""SQL of what balance answers: pages of entries, and its status."""

from dataclasses import dataclass
from typing import Any

from services.balance.store.streams import GAP_ASKED_MAX
from shared.clock import format_instant
from shared.db import Connection, day_of
from shared.set_aside import count_set_aside


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries of an account: by number, by posting time in [from, to), of charges alone, the latest alone."""

    after_number: int = 0
    number: int | None = None
    from_us: int | None = None
    to_us: int | None = None
    charges: bool = False
    latest: bool = False


async def load_entries(
    connection: Connection, account_id: int, wanted: EntryFilter, limit: int
) -> list[dict[str, Any]]:
    """A page of an account's entries by number; `latest` gives the last ones."""
    order = "desc" if wanted.latest else "asc"
    rows = await connection.fetch(
        f"""
        select e.entry_number, e.posted_at, e.debit_account, e.credit_account, e.amount_micros, e.balance_after_micros,
               e.class, e.shard, e.seq, e.adjustment_key, e.fact_id, a.reason, a.actor
        from entry e left join adjustment a on a.account_id = e.account_id and a.idempotency_key = e.adjustment_key
        where e.account_id = $1 and e.entry_number > $2 and ($3::bigint is null or e.entry_number = $3)
          and ($4::timestamptz is null or (e.posted_at >= $4 and e.day >= $6))
          and ($5::timestamptz is null or (e.posted_at < $5 and e.day <= $7)) and (not $8 or e.seq is not null)
        order by e.entry_number {order} limit $9
        """,  # noqa: S608 - one of two words
        account_id,
        wanted.after_number,
        wanted.number,
        wanted.from_us,
        wanted.to_us,
        None if wanted.from_us is None else day_of(wanted.from_us),
        None if wanted.to_us is None else day_of(wanted.to_us),
        wanted.charges,
        limit,
    )
    found = [{**dict(row), "posted_at": format_instant(row["posted_at"])} for row in rows]
    return found[::-1] if wanted.latest else found


async def load_status(connection: Connection) -> dict[str, Any]:
    """Positions by topic and partition, every stream, what waits and what is open."""
    positions: dict[str, dict[str, int]] = {}
    query = "select topic, partition, max(next_offset) as position from consumer_offset group by 1, 2"
    for row in await connection.fetch(query):
        positions.setdefault(row["topic"], {})[str(row["partition"])] = row["position"]
    # A batch that does not come however often it is asked for stops its stream as well as one that can't be posted.
    streams = await connection.fetch(
        """
        select s.shard, s.seq, coalesce(s.stopped_reason, case when g.asked >= $1 then
          format('batch %s is missing; metering was asked for it %s times', g.from_seq, g.asked) end) as stopped
        from charge_stream s left join charge_gap g on g.shard = s.shard and g.from_seq = s.seq + 1 order by s.shard
        """,
        GAP_ASKED_MAX,
    )
    waiting = await connection.fetchval("select count(*) from charge_waiting")
    unpublished = await connection.fetchval(
        "select coalesce(sum(h.seq - c.published_seq), 0) from stream_head h join outbox_cursor c using (stream)"
    )
    dead = await connection.fetchval("select count(*) from dead_letter where replayed_at is null")
    return {
        "positions": positions,
        "streams": [dict(row) for row in streams],
        "set_aside": await count_set_aside(connection),
        "waiting": waiting,
        "unpublished": int(unpublished),
        "dead": dead,
    }
