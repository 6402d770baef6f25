"""Accounts and what was posted to them, audited: against their own entries, facts and adjustments.

Each question is asked of one account, or with a null `$1` of all.
"""

from collections.abc import AsyncIterator

from services.balance.audit.difference import Difference, difference_of
from shared.db import Connection

_BALANCES = """
select coalesce(a.region || '/' || a.tenant_id, 'account ' || e.account_id) as account,
       coalesce(e.last, a.last_posted_at) as at, a.balance_micros, coalesce(e.sum, 0) as summed, a.entries,
       coalesce(e.count, 0) as counted, a.credits, coalesce(e.credits, 0) as credited, a.held_micros,
       (select coalesce(sum(d.held_micros), 0) from dispute_hold d where d.account_id = a.account_id) as disputed
from (select * from account where $1::bigint is null or account_id = $1) a full join (
  select account_id, count(*) as count, count(*) filter (where credit_account = 'customer') as credits,
         sum(case when credit_account = 'customer' then amount_micros else -amount_micros end) as sum,
         max(posted_at) as last
  from entry where $1::bigint is null or account_id = $1 group by account_id
) e using (account_id)
where a.account_id is null or a.balance_micros <> coalesce(e.sum, 0) or a.entries <> coalesce(e.count, 0)
   or a.credits <> coalesce(e.credits, 0)
   or a.held_micros <> (select coalesce(sum(d.held_micros), 0) from dispute_hold d where d.account_id = a.account_id)
"""

_RUNNING = """
select a.region || '/' || a.tenant_id as account, e.posted_at as at, entry_number from (
  select account_id, entry_number, balance_after_micros, posted_at,
         sum(case when credit_account = 'customer' then amount_micros else -amount_micros end) over w as running,
         row_number() over w as number
  from entry where $1::bigint is null or account_id = $1
  window w as (partition by account_id order by entry_number)
) e left join account a using (account_id) where running <> balance_after_micros or number <> entry_number
"""

_STATES = """
select region || '/' || tenant_id as account, last_posted_at as at, state, balance_micros from account
where ($1::bigint is null or account_id = $1)
  and ((state = 'negative') <> (balance_micros < 0) or (negative_since is not null) <> (balance_micros < 0)
       or (state in ('ok', 'low')) <> (balance_micros > 0))
"""

# Facts and their entries are the same, one to one.
_FACTS = """
select a.region || '/' || a.tenant_id as account, coalesce(f.posted_at, e.posted_at) as at,
       coalesce(f.fact_id, e.fact_id) as fact_id
from (select * from posted_fact where $1::bigint is null or account_id = $1) f full join (
  select fact_id, account_id, entry_number, posted_at,
         case when credit_account = 'customer' then amount_micros else -amount_micros end as amount
  from entry where fact_id is not null and ($1::bigint is null or account_id = $1)
) e on (e.fact_id, e.account_id, e.entry_number, e.amount, e.posted_at)
     = (f.fact_id, f.account_id, f.entry_number, f.amount_micros, f.posted_at)
left join account a on a.account_id = coalesce(f.account_id, e.account_id)
where f.fact_id is null or (e.fact_id is null and (f.amount_micros <> 0 or f.entry_number is not null))
"""

_ADJUSTMENTS = """
select a.region || '/' || a.tenant_id as account, coalesce(j.posted_at, e.posted_at) as at,
       coalesce(j.idempotency_key, e.adjustment_key) as key
from (select * from adjustment where $1::bigint is null or account_id = $1) j full join (
  select account_id, adjustment_key, entry_number, balance_after_micros, posted_at,
         case when credit_account = 'customer' then amount_micros else -amount_micros end as amount
  from entry where adjustment_key is not null and ($1::bigint is null or account_id = $1)
) e on (j.account_id, j.idempotency_key, j.entry_number, j.balance_after_micros, j.posted_at, j.amount_micros)
     = (e.account_id, e.adjustment_key, e.entry_number, e.balance_after_micros, e.posted_at, e.amount)
left join account a on a.account_id = coalesce(j.account_id, e.account_id)
where j.account_id is null or e.account_id is null
"""

_UNSEALED = """
select a.region || '/' || a.tenant_id as account, e.posted_at as at, e.entry_number
from entry e left join account a using (account_id)
where ($1::bigint is null or e.account_id = $1)
  and not exists (select from chain_link l where (l.shard, l.link_number) = (e.shard, e.link_number))
"""


async def audit_accounts(connection: Connection, account_id: int | None) -> AsyncIterator[Difference]:
    for row in await connection.fetch(_BALANCES, account_id):
        yield difference_of(
            row,
            f"balance {row['balance_micros']}, entries sum to {row['summed']}; {row['entries']} entries and "
            f"{row['credits']} credits counted, {row['counted']} and {row['credited']} found; holds "
            f"{row['held_micros']}, its disputes {row['disputed']}",
        )
    for row in await connection.fetch(_RUNNING, account_id):
        yield difference_of(row, f"entry {row['entry_number']} has not the running balance")
    for row in await connection.fetch(_STATES, account_id):
        yield difference_of(row, f"state {row['state']} at {row['balance_micros']}")
    for row in await connection.fetch(_FACTS, account_id):
        yield difference_of(row, f"fact {row['fact_id']} is not one entry of the same amount and time")
    for row in await connection.fetch(_ADJUSTMENTS, account_id):
        yield difference_of(row, f"adjustment {row['key']} is not its entry")
    for row in await connection.fetch(_UNSEALED, account_id):
        yield difference_of(row, f"entry {row['entry_number']} is in no chain link")
