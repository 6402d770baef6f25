"""The rows of closed hours, audited: each against the lines of its evidence, and the hours against the entries.

The lines are read by the contract's own model and added up anew; nothing of closing is used.
"""

from collections.abc import AsyncIterator
from itertools import islice

from services.balance.audit.difference import Difference
from shared.clock import HOUR_US
from shared.db import Connection, day_of
from shared.events.charges import read_batch

_PREFETCH = 100

# By account and hour, so that no row can hide behind another, nor one of an account without any charge.
_ENTRIES = """
select coalesce(a.region || '/' || a.tenant_id, 'account ' || account_id) as account, hour, r.amount, e.charged
from (
  select account_id, hour, sum(amount_micros)::text as amount from resource_hour
  where $1::bigint is null or account_id = $1 group by 1, 2
) r full join (
  select account_id, date_bin('1 hour', posted_at, 'epoch'::timestamptz) as hour,
         sum(case when debit_account = 'customer' then amount_micros else -amount_micros end)::text as charged
  from entry join hour_head h using (shard) where entry.seq is not null and posted_at < h.through
    and ($1::bigint is null or account_id = $1) group by 1, 2
) e using (account_id, hour) left join account a using (account_id)
where coalesce(r.amount, '0') <> coalesce(e.charged, '0')
"""

_EVIDENCE = """
select v.shard, v.seq, v.posted_at, v.value from evidence v join hour_head h using (shard)
where v.posted_at < h.through order by v.shard, v.seq
"""

_ROWS = """
select a.region, a.tenant_id, r.resource_id, r.kind, r.slots, r.amount_micros
from resource_hour r join account a using (account_id) where r.day = $1 and r.hour = $2 and a.shard = $3
"""

# Hours that are written lie before what may still be posted, and everything posted before them is in them.
_HEADS = """
select h.shard, h.through as at from hour_head h join chain_head c using (shard)
where h.through > c.closed_through or h.seq <> coalesce(
  (select max(seq) from evidence v where v.shard = h.shard and v.posted_at < h.through), 0)
"""

# (region, tenant_id, resource_id, kind) of a row
Name = tuple[str, str, str, str]


async def audit_hours(connection: Connection, account_id: int | None) -> AsyncIterator[Difference]:
    """Rows are looked at one by one only where all accounts are: the evidence of a shard is read for it."""
    for row in await connection.fetch(_ENTRIES, account_id):
        what = f"the hour's rows sum to {row['amount'] or 0}, the entries to {row['charged'] or 0}"
        yield Difference(row["account"], row["hour"], what)
    if account_id is not None:
        return
    for row in await connection.fetch(_HEADS):
        yield Difference(f"shard {row['shard']}", row["at"], "the hours' head is not its last batch")
    async for difference in _audit_rows(connection):
        yield difference


async def _audit_rows(connection: Connection) -> AsyncIterator[Difference]:
    """Add up the lines of every shard and closed hour anew, and compare them row by row."""
    current: tuple[int, int] | None = None
    sums: dict[Name, tuple[int, int]] = {}
    rows = 0
    async for row in connection.cursor(_EVIDENCE, prefetch=_PREFETCH):
        place = row["shard"], row["posted_at"] - row["posted_at"] % HOUR_US
        if place != current:
            if current is not None:
                rows += len(sums)
                for difference in await _compare(connection, current, sums):
                    yield difference
            current, sums = place, {}
        try:
            _add_lines(sums, row["value"])
        except ValueError as error:
            what = f"batch {row['seq']} is not by the contract: {error}"
            yield Difference(f"shard {row['shard']}", row["posted_at"], what)
    if current is not None:
        rows += len(sums)
        for difference in await _compare(connection, current, sums):
            yield difference
    written = await connection.fetchval("select count(*) from resource_hour")
    if written != rows:
        yield Difference("all accounts", None, f"{written} rows of hours are written, the evidence makes {rows}")


def _add_lines(sums: dict[Name, tuple[int, int]], value: bytes) -> None:
    batch = read_batch(value)
    lines = batch.lines
    columns = zip(lines.resource_ids, lines.kinds, lines.slots, lines.amounts_micros, strict=True)
    for account in batch.accounts:
        for resource_id, kind, slots, amount_micros in islice(columns, account.lines):
            name = account.region, account.tenant_id, resource_id, kind
            held = sums.get(name, (0, 0))
            sums[name] = held[0] + slots, held[1] + amount_micros


async def _compare(
    connection: Connection, place: tuple[int, int], sums: dict[Name, tuple[int, int]]
) -> list[Difference]:
    shard, hour_us = place
    found = await connection.fetch(_ROWS, day_of(hour_us), hour_us, shard)
    rows = {tuple(row)[:4]: tuple(row)[4:] for row in found}
    return [
        Difference(
            f"{name[0]}/{name[1]}",
            hour_us,
            f"the hour's row of {name[2]} ({name[3]}) says {rows.get(name)}, its lines {sums.get(name)}",
        )
        for name in sorted(rows.keys() | sums.keys())
        if rows.get(name) != sums.get(name)
    ]
