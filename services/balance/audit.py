"""The books, audited: what the database holds against what its own entries, chain, evidence and hours say.

One pass per question, streamed; nothing here shares state with posting. An empty answer means that all agrees.
"""

from collections.abc import AsyncIterator

import orjson

from services.balance.audit_grants import audit_grants
from services.balance.audit_hours import audit_hours
from services.balance.audit_standings import audit_standings
from services.balance.rules.chain import adjustment_cause, charge_cause, entry_line, fact_cause, seal
from services.balance.wire import WireBatch, read_wire
from shared.clock import format_instant
from shared.db import Connection
from shared.ids import content_hash

_PREFETCH = 5000

_BALANCES = """
select a.region || '/' || a.tenant_id as account, a.balance_micros, coalesce(e.sum, 0) as summed, a.entries,
       coalesce(e.count, 0) as counted, a.credits, coalesce(e.credits, 0) as credited
from account a full join (
  select account_id, count(*) as count, count(*) filter (where credit_account = 'customer') as credits,
         sum(case when credit_account = 'customer' then amount_micros else -amount_micros end) as sum
  from entry group by account_id
) e using (account_id)
where a.account_id is null or a.balance_micros <> coalesce(e.sum, 0) or a.entries <> coalesce(e.count, 0)
   or a.credits <> coalesce(e.credits, 0)
"""

_RUNNING = """
select account_id, entry_number from (
  select account_id, entry_number, balance_after_micros,
         sum(case when credit_account = 'customer' then amount_micros else -amount_micros end) over w as running,
         row_number() over w as number
  from entry window w as (partition by account_id order by entry_number)
) e where running <> balance_after_micros or number <> entry_number
"""

_STATES = """
select region || '/' || tenant_id as account, state, balance_micros from account
where (state = 'negative') <> (balance_micros < 0) or (negative_since is not null) <> (balance_micros < 0)
   or (state in ('ok', 'low')) <> (balance_micros > 0)
"""

# Facts and their entries are the same, one to one; what disputes hold is what their accounts say.
_FACTS = """
select coalesce(f.fact_id, e.fact_id) as fact_id from posted_fact f full join (
  select fact_id, account_id, entry_number,
         case when credit_account = 'customer' then amount_micros else -amount_micros end as amount
  from entry where fact_id is not null
) e on (e.fact_id, e.account_id, e.entry_number, e.amount)
     = (f.fact_id, f.account_id, f.entry_number, f.amount_micros)
where f.fact_id is null or (e.fact_id is null and (f.amount_micros <> 0 or f.entry_number is not null))
"""

_HELD = """
select a.region || '/' || a.tenant_id as account, a.held_micros, coalesce(d.held, 0) as held from account a
left join (select account_id, sum(held_micros) as held from dispute_hold group by 1) d using (account_id)
where a.held_micros <> coalesce(d.held, 0)
"""

# The books sum to zero: what customers lost is what the other ledger accounts gained.
_OTHER_SIDES = """
select coalesce((select sum(balance_micros) from account), 0) + coalesce(sum(
  case when credit_account = 'customer' then -amount_micros else amount_micros end), 0) as rest
from entry
"""

_SEALED = """
select l.shard, l.link_number, l.previous, l.link, l.entries, l.posted_at,
       e.account_id, e.debit_account, e.credit_account, e.class, e.amount_micros, e.seq, e.adjustment_key, e.fact_id,
       e.posted_at as entry_posted_at, v.sha256, j.amount_micros as adjusted_micros, j.reason, j.actor
from chain_link l left join entry e on (e.shard, e.link_number) = (l.shard, l.link_number)
left join evidence v on (v.shard, v.seq) = (e.shard, e.seq)
left join adjustment j on (j.account_id, j.idempotency_key) = (e.account_id, e.adjustment_key)
order by l.shard, l.link_number, e.account_id, e.entry_number
"""

_UNSEALED = """
select e.account_id, e.entry_number from entry e
where not exists (select from chain_link l where (l.shard, l.link_number) = (e.shard, e.link_number))
"""

_HEADS = """
select h.shard from chain_head h left join lateral (
  select link_number, link from chain_link l where l.shard = h.shard order by link_number desc limit 1
) l on true
where h.link_number <> coalesce(l.link_number, 0) or h.link <> coalesce(l.link, '\\x')
"""

_BATCHES = """
select coalesce(v.shard, e.shard) as shard, coalesce(v.seq, e.seq) as seq, v.sha256, v.value, v.posted_at, e.charged
from evidence v full join (
  select e.shard, e.seq, json_agg(json_build_array(a.region, a.tenant_id,
    substr(case when debit_account = 'customer' then credit_account else debit_account end, length('revenue:') + 1),
    class, (case when debit_account = 'customer' then amount_micros else -amount_micros end)::text))::text as charged
  from entry e left join account a using (account_id) where e.seq is not null group by e.shard, e.seq
) e on (v.shard, v.seq) = (e.shard, e.seq)
"""

# Every number up to where a stream stands has its evidence, and none beyond: one without it would be taken for posted.
_STREAMS = """
select shard, coalesce(s.seq, 0) as seq, coalesce(v.count, 0) as count, coalesce(v.last, 0) as last
from charge_stream s full join (select shard, count(*) as count, max(seq) as last from evidence group by 1) v
  using (shard)
where coalesce(s.seq, 0) <> coalesce(v.count, 0) or coalesce(s.seq, 0) <> coalesce(v.last, 0)
"""

_ADJUSTMENTS = """
select coalesce(j.account_id, e.account_id) as account_id, coalesce(j.idempotency_key, e.adjustment_key) as key
from adjustment j full join (
  select account_id, adjustment_key, entry_number, balance_after_micros, posted_at,
         case when credit_account = 'customer' then amount_micros else -amount_micros end as amount
  from entry where adjustment_key is not null
) e on (j.account_id, j.idempotency_key, j.entry_number, j.balance_after_micros, j.posted_at, j.amount_micros)
     = (e.account_id, e.adjustment_key, e.entry_number, e.balance_after_micros, e.posted_at, e.amount)
where j.account_id is null or e.account_id is null
"""

# No hour is closed that lies beyond the last posting, and only whole hours are.
_CLOSED = """
select shard from chain_head
where closed_through <> date_bin('1 hour', closed_through, 'epoch')
   or closed_through > date_bin('1 hour', last_posted_at, 'epoch') + interval '1 hour'
"""


async def audit(connection: Connection) -> list[str]:
    """The differences found, each one sentence. Needs a transaction of its own with a stable snapshot."""
    differences = [
        f"{row['account']}: balance {row['balance_micros']}, entries sum to {row['summed']}; {row['entries']} entries"
        f" and {row['credits']} credits counted, {row['counted']} and {row['credited']} found"
        for row in await connection.fetch(_BALANCES)
    ]
    differences += [
        f"account {row[0]}, entry {row[1]}: not the running balance" for row in await connection.fetch(_RUNNING)
    ]
    differences += [f"{row[0]}: state {row[1]} at {row[2]}" for row in await connection.fetch(_STATES)]
    differences += [f"fact {row[0]}: not one entry of the same amount" for row in await connection.fetch(_FACTS)]
    differences += [f"{row[0]}: holds {row[1]}, its disputes {row[2]}" for row in await connection.fetch(_HELD)]
    rest = await connection.fetchval(_OTHER_SIDES)
    if rest != 0:
        differences.append(f"the books do not sum to zero but to {rest}")
    differences += [f"account {row[0]}, entry {row[1]}: in no chain link" for row in await connection.fetch(_UNSEALED)]
    differences += [f"shard {row[0]}: the chain's head is not its last link" for row in await connection.fetch(_HEADS)]
    differences += [
        f"shard {row['shard']}: posted up to batch {row['seq']}, with evidence of {row['count']} up to {row['last']}"
        for row in await connection.fetch(_STREAMS)
    ]
    differences += [
        f"account {row['account_id']}: adjustment {row['key']} is not its entry"
        for row in await connection.fetch(_ADJUSTMENTS)
    ]
    differences += [f"shard {row['shard']}: hours are closed that can't be" for row in await connection.fetch(_CLOSED)]
    differences += await audit_standings(connection)
    differences += [difference async for difference in _audit_chain(connection)]
    differences += [difference async for difference in _audit_evidence(connection)]
    differences += await audit_grants(connection)
    differences += await audit_hours(connection)
    return differences


async def _audit_chain(connection: Connection) -> AsyncIterator[str]:
    """Compute every link again from the entries, in order."""
    current: tuple[int, int] | None = None
    row = None
    lines: list[str] = []
    last_link: dict[int, tuple[int, bytes]] = {}
    async for found in connection.cursor(_SEALED, prefetch=_PREFETCH):
        key = found["shard"], found["link_number"]
        if key != current:
            if row is not None:
                for difference in _check_link(row, lines, last_link):
                    yield difference
            current, row, lines = key, found, []
        if found["account_id"] is not None:
            if found["entry_posted_at"] != found["posted_at"]:
                yield f"shard {key[0]}, link {key[1]}: entry of account {found['account_id']} has another posting time"
            lines.append(_line(found))
    if row is not None:
        for difference in _check_link(row, lines, last_link):
            yield difference


def _line(row: object) -> str:
    found = dict(row)  # type: ignore[call-overload]
    key, fact_id = found["adjustment_key"], found["fact_id"]
    if fact_id is not None:
        cause = fact_cause(fact_id)
    elif key is not None:
        words = orjson.dumps([found["adjusted_micros"], found["reason"], found["actor"]])
        cause = adjustment_cause(key, content_hash(words))
    else:
        cause = charge_cause(found["seq"], found["sha256"] or b"")
    sides = f"{found['debit_account']} {found['credit_account']} {found['class']}"
    return entry_line(found["account_id"], sides, found["amount_micros"], cause)


def _check_link(row: object, lines: list[str], last_link: dict[int, tuple[int, bytes]]) -> list[str]:
    found = dict(row)  # type: ignore[call-overload]
    shard, number = found["shard"], found["link_number"]
    last_number, previous = last_link.get(shard, (0, b""))
    last_link[shard] = number, found["link"]
    where = f"shard {shard}, link {number}"
    if number != last_number + 1 or found["previous"] != previous:
        return [f"{where}: does not follow link {last_number}"]
    if found["entries"] != len(lines):
        return [f"{where}: sealed {found['entries']} entries, found {len(lines)}"]
    if seal(previous, shard, number, found["posted_at"], lines) != found["link"]:
        return [f"{where}: the entries are not those that were sealed"]
    return []


async def _audit_evidence(connection: Connection) -> AsyncIterator[str]:
    """Compare each batch's bytes with their hash, and with each entry posted for it; and the burns of the last ones."""
    burns: dict[tuple[str, str], tuple[int, int]] = {}
    async for row in connection.cursor(_BATCHES, prefetch=100):
        where = f"shard {row['shard']}, batch {row['seq']}"
        if row["value"] is None:
            yield f"{where}: posted without evidence"
        elif content_hash(row["value"]) != row["sha256"]:
            yield f"{where}: the evidence is not what was hashed"
        else:
            batch = read_wire(row["value"])
            if (batch.shard, batch.seq) != (row["shard"], row["seq"]):
                yield f"{where}: the evidence is of shard {batch.shard}, batch {batch.seq}"
            for account in batch.accounts:
                key = account.region, account.tenant_id
                burns[key] = max(burns.get(key, (0, 0)), (batch.seq, account.burn_micros_per_hour))
            for difference in _compare(batch, orjson.loads(row["charged"] or "[]")):
                yield f"{where}, posted {format_instant(row['posted_at'])}: {difference}"
    for row in await connection.fetch("select region, tenant_id, burn_micros_per_hour as burn from account"):
        told = burns.get((row["region"], row["tenant_id"]), (0, 0))[1]
        if told != row["burn"]:
            yield f"{row['region']}/{row['tenant_id']}: burns {row['burn']} an hour, its last batch says {told}"


def _compare(batch: WireBatch, entries: list[tuple[str, str, str, str, str]]) -> list[str]:
    """Where a batch's totals are not its entries, account by account."""
    told: dict[tuple[str, str, str, str], int] = {
        (account.region, account.tenant_id, kind, line_class): amount_micros
        for account in batch.accounts
        for kind, line_class, amount_micros in account.totals
        if amount_micros
    }
    posted = {(region, tenant, kind, name): int(amount) for region, tenant, kind, name, amount in entries}
    return [
        f"{key[0]}/{key[1]}: the evidence charges {told.get(key, 0)} for {key[2]} ({key[3]}), "
        f"the entries {posted.get(key, 0)}"
        for key in sorted(told.keys() | posted.keys(), key=str)
        if told.get(key) != posted.get(key)
    ]
