"""Evidence, audited: each batch's bytes against their hash, its entries, and where its stream stands."""

from collections.abc import AsyncIterator, Iterator

import asyncpg
import orjson

from services.balance.audit.difference import Difference
from services.balance.wire import WireBatch, read_wire
from shared.db import Connection
from shared.ids import content_hash

_BATCHES = """
select coalesce(v.shard, e.shard) as shard, coalesce(v.seq, e.seq) as seq, v.sha256, v.value,
       coalesce(v.posted_at, e.posted_at) as at, v.used_from, v.used_until, e.charged
from (
  select * from evidence v where $1::bigint is null
  or exists (select from entry e where e.account_id = $1 and (e.shard, e.seq) = (v.shard, v.seq))
) v full join (
  select e.shard, e.seq, min(posted_at) as posted_at, json_agg(json_build_array(a.region, a.tenant_id,
    substr(case when debit_account = 'customer' then credit_account else debit_account end, length('revenue:') + 1),
    class, (case when debit_account = 'customer' then amount_micros else -amount_micros end)::text))::text as charged
  from entry e left join account a using (account_id)
  where e.seq is not null and ($1::bigint is null or e.account_id = $1) group by e.shard, e.seq
) e on (v.shard, v.seq) = (e.shard, e.seq)
order by 1, 2
"""

_BURNS = """
select region || '/' || tenant_id as account, region, tenant_id, burn_micros_per_hour as burn, last_posted_at as at
from account where $1::bigint is null or account_id = $1
"""

# Every number up to where a stream stands has its evidence, and none beyond: one without it would be taken for posted.
_STREAMS = """
select shard, coalesce(s.seq, 0) as seq, coalesce(v.count, 0) as count, coalesce(v.last, 0) as last, v.at
from charge_stream s full join (
  select shard, count(*) as count, max(seq) as last, max(posted_at) as at from evidence group by 1
) v using (shard)
where coalesce(s.seq, 0) <> coalesce(v.count, 0) or coalesce(s.seq, 0) <> coalesce(v.last, 0)
"""


async def audit_streams(connection: Connection) -> AsyncIterator[Difference]:
    for row in await connection.fetch(_STREAMS):
        what = f"posted up to batch {row['seq']}, with evidence of {row['count']} up to {row['last']}"
        yield Difference(f"shard {row['shard']}", row["at"], what)


async def audit_evidence(connection: Connection, account_id: int | None) -> AsyncIterator[Difference]:
    """Compare each batch's bytes with their hash, and with each entry posted for it; and the burns of the last ones."""
    accounts = await connection.fetch(_BURNS, account_id)
    names = {(row["region"], row["tenant_id"]) for row in accounts}
    of_one = None if account_id is None else names
    burns: dict[tuple[str, str], tuple[int, int]] = {}
    async for row in connection.cursor(_BATCHES, account_id, prefetch=100):
        shard, batch_name = f"shard {row['shard']}", f"batch {row['seq']}"
        if row["value"] is None:
            yield Difference(shard, row["at"], f"{batch_name} was posted without evidence")
        elif content_hash(row["value"]) != row["sha256"]:
            yield Difference(shard, row["at"], f"the evidence of {batch_name} is not what was hashed")
        else:
            batch = read_wire(row["value"])
            for what in _compare_head(batch, row):
                yield Difference(shard, row["at"], what)
            for account in batch.accounts:
                key = account.region, account.tenant_id
                burns[key] = max(burns.get(key, (0, 0)), (batch.seq, account.burn_micros_per_hour))
            for name, what in _compare(batch, orjson.loads(row["charged"] or "[]"), of_one):
                yield Difference(name, row["at"], f"{batch_name}: {what}")
    if account_id is not None:
        # The batches without an entry of it were not read, and one of them may tell its last burn.
        return
    for row in accounts:
        told = burns.get((row["region"], row["tenant_id"]), (0, 0))[1]
        if told != row["burn"]:
            what = f"burns {row['burn']} an hour, its last batch says {told}"
            yield Difference(row["account"], row["at"], what)


def _compare_head(batch: WireBatch, row: asyncpg.Record) -> Iterator[str]:
    """Where a batch is not what its row says of it."""
    if (batch.shard, batch.seq) != (row["shard"], row["seq"]):
        yield f"the evidence of batch {row['seq']} is of shard {batch.shard}, batch {batch.seq}"
    if (batch.used_from_us, batch.used_until_us) != (row["used_from"], row["used_until"]):
        yield f"batch {row['seq']} was used at another time than its row says"


def _compare(
    batch: WireBatch, entries: list[tuple[str, str, str, str, str]], names: set[tuple[str, str]] | None
) -> list[tuple[str, str]]:
    """Where a batch's totals are not its entries, account by account."""
    told: dict[tuple[str, str, str, str], int] = {
        (account.region, account.tenant_id, kind, line_class): amount_micros
        for account in batch.accounts
        for kind, line_class, amount_micros in account.totals
        if amount_micros and (names is None or (account.region, account.tenant_id) in names)
    }
    posted = {(region, tenant, kind, name): int(amount) for region, tenant, kind, name, amount in entries}
    return [
        (
            f"{key[0]}/{key[1]}",
            f"the evidence charges {told.get(key, 0)} for {key[2]} ({key[3]}), the entries {posted.get(key, 0)}",
        )
        for key in sorted(told.keys() | posted.keys(), key=str)
        if told.get(key) != posted.get(key)
    ]
