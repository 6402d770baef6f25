"""Since when accounts are below zero, audited: worked out anew from their entries, without the rules of posting."""

from collections.abc import AsyncIterator

from services.balance.audit.difference import Difference, difference_of
from shared.clock import format_instant
from shared.db import Connection

_PREFETCH = 5000

_ENTRIES = """
select account_id, balance_after_micros as after, posted_at, class,
       case when credit_account = 'customer' then amount_micros else -amount_micros end as delta
from entry where $1::bigint is null or account_id = $1 order by account_id, entry_number
"""

_NEGATIVE = """
select account_id, region || '/' || tenant_id as account, negative_since, last_posted_at as at from account
where $1::bigint is null or account_id = $1 order by account_id
"""

# New money does not restart the grace period; what gives back does.
_NEW_MONEY = ("payment", "grant")


async def audit_standings(connection: Connection, account_id: int | None) -> AsyncIterator[Difference]:
    since: dict[int, int] = {}
    async for row in connection.cursor(_ENTRIES, account_id, prefetch=_PREFETCH):
        account_id, before = row["account_id"], row["after"] - row["delta"]
        if row["after"] >= 0:
            since.pop(account_id, None)
        elif before >= 0 or (row["delta"] > 0 and row["class"] not in _NEW_MONEY):
            since[account_id] = row["posted_at"]
    for row in await connection.fetch(_NEGATIVE, account_id):
        found = since.get(row["account_id"])
        if row["negative_since"] != found:
            what = f"below zero since {_tell(row['negative_since'])}, its entries say {_tell(found)}"
            yield difference_of({**row, "at": found or row["at"]}, what)


def _tell(instant_us: int | None) -> str:
    return "never" if instant_us is None else format_instant(instant_us)
