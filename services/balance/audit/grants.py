"""Promotional credit, audited: grants and expiries against their entries, checkpoints against balances.

Each question is asked of one account, or with a null `$1` of all.
"""

from collections.abc import AsyncIterator

from services.balance.audit.difference import Difference, difference_of
from shared.db import Connection

_GIVEN = """
select a.region || '/' || a.tenant_id as account, coalesce(f.posted_at, g.granted_at) as at,
       coalesce('grant/' || g.grant_id, f.fact_id) as name
from (select * from promotional_grant where $1::bigint is null or account_id = $1) g full join (
  select * from posted_fact where fact_id like 'grant/%' and ($1::bigint is null or account_id = $1)
) f on f.fact_id = 'grant/' || g.grant_id
left join account a on a.account_id = coalesce(g.account_id, f.account_id)
where (f.account_id, f.amount_micros) is distinct from (g.account_id, g.amount_micros)
"""

# Out of a grant expires no more than was in it, and each expiry has a number of its own.
_EXPIRED = """
select a.region || '/' || a.tenant_id as account, coalesce(e.last, g.granted_at) as at, s.grant_id, s.expiries,
       coalesce(e.count, 0) as count, coalesce(e.sum, 0) as sum
from grant_standing s
left join (
  select split_part(fact_id, '/', 2) as grant_id, count(*) as count, -sum(amount_micros) as sum, max(posted_at) as last
  from posted_fact where fact_id like 'expiry/%' group by 1
) e using (grant_id) join promotional_grant g using (grant_id) left join account a on a.account_id = g.account_id
where ($1::bigint is null or g.account_id = $1)
  and (s.expiries <> coalesce(e.count, 0) or coalesce(e.sum, 0) not between 0 and g.amount_micros)
"""

_CHECKPOINTS = """
select a.region || '/' || a.tenant_id as account, coalesce(e.posted_at, a.last_posted_at) as at, c.entry_number,
       coalesce(e.balance_after_micros, 0) as balance,
       coalesce(s.remaining, 0) + c.bought_micros - c.usage_debt_micros - c.cash_debt_micros as burnt
from grant_checkpoint c join account a using (account_id)
left join entry e on (e.account_id, e.entry_number) = (c.account_id, c.entry_number)
left join (select account_id, sum(remaining_micros - claimed_micros) as remaining from grant_standing group by 1) s
  on s.account_id = c.account_id
where ($1::bigint is null or c.account_id = $1)
  and coalesce(s.remaining, 0) + c.bought_micros - c.usage_debt_micros - c.cash_debt_micros
    <> coalesce(e.balance_after_micros, 0)
"""

_VOUCHERS = """
select v.region || ', voucher ' || v.voucher_id as account, max(r.redeemed_at) as at, v.redemptions,
       count(r.account_id) as found
from voucher v left join voucher_redemption r using (voucher_id)
where $1::bigint is null
group by v.region, v.voucher_id, v.redemptions having v.redemptions <> count(r.account_id)
"""


async def audit_grants(connection: Connection, account_id: int | None) -> AsyncIterator[Difference]:
    for row in await connection.fetch(_GIVEN, account_id):
        yield difference_of(row, f"{row['name']} is not one entry of the grant's amount")
    for row in await connection.fetch(_EXPIRED, account_id):
        what = f"grant {row['grant_id']}: {row['expiries']} expiries counted, {row['count']} posted, of {row['sum']}"
        yield difference_of(row, what)
    for row in await connection.fetch(_CHECKPOINTS, account_id):
        what = f"burning says {row['burnt']} at entry {row['entry_number']}, the ledger {row['balance']}"
        yield difference_of(row, what)
    for row in await connection.fetch(_VOUCHERS, account_id):
        yield difference_of(row, f"{row['redemptions']} redemptions counted, {row['found']} found")
