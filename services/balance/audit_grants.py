"""Promotional credit, audited: grants and expiries against their entries, checkpoints against balances."""

from shared.db import Connection

_GIVEN = """
select coalesce('grant/' || g.grant_id, f.fact_id) from promotional_grant g
full join (select * from posted_fact where fact_id like 'grant/%') f on f.fact_id = 'grant/' || g.grant_id
where (f.account_id, f.amount_micros) is distinct from (g.account_id, g.amount_micros)
"""

# Out of a grant expires no more than was in it, and each expiry has a number of its own.
_EXPIRED = """
select s.grant_id, s.expiries, coalesce(e.count, 0), coalesce(e.sum, 0) from grant_standing s
left join (
  select split_part(fact_id, '/', 2) as grant_id, count(*) as count, -sum(amount_micros) as sum
  from posted_fact where fact_id like 'expiry/%' group by 1
) e using (grant_id) join promotional_grant g using (grant_id)
where s.expiries <> coalesce(e.count, 0) or coalesce(e.sum, 0) not between 0 and g.amount_micros
"""

_CHECKPOINTS = """
select a.region || '/' || a.tenant_id, c.entry_number, coalesce(e.balance_after_micros, 0) as balance,
       coalesce(s.remaining, 0) + c.bought_micros - c.usage_debt_micros - c.cash_debt_micros as burnt
from grant_checkpoint c join account a using (account_id)
left join entry e on (e.account_id, e.entry_number) = (c.account_id, c.entry_number)
left join (select account_id, sum(remaining_micros) as remaining from grant_standing group by 1) s
  on s.account_id = c.account_id
where coalesce(s.remaining, 0) + c.bought_micros - c.usage_debt_micros - c.cash_debt_micros
  <> coalesce(e.balance_after_micros, 0)
"""

_VOUCHERS = """
select v.voucher_id, v.redemptions, count(r.account_id) from voucher v left join voucher_redemption r using (voucher_id)
group by 1, 2 having v.redemptions <> count(r.account_id)
"""


async def audit_grants(connection: Connection) -> list[str]:
    """The differences found, each one sentence."""
    return [
        *(f"{row[0]}: not one entry of the grant's amount" for row in await connection.fetch(_GIVEN)),
        *(
            f"grant {row[0]}: {row[1]} expiries counted, {row[2]} posted, of {row[3]} in all"
            for row in await connection.fetch(_EXPIRED)
        ),
        *(
            f"{row[0]}: burning says {row[3]} at entry {row[1]}, the ledger {row[2]}"
            for row in await connection.fetch(_CHECKPOINTS)
        ),
        *(
            f"voucher {row[0]}: {row[1]} redemptions counted, {row[2]} found"
            for row in await connection.fetch(_VOUCHERS)
        ),
    ]
