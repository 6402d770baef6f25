"""Since when accounts are below zero, audited: worked out anew from their entries, without the rules of posting."""

from shared.clock import format_instant
from shared.db import Connection

_PREFETCH = 5000

_ENTRIES = """
select account_id, balance_after_micros as after, posted_at, class,
       case when credit_account = 'customer' then amount_micros else -amount_micros end as delta
from entry order by account_id, entry_number
"""

_NEGATIVE = "select account_id, region || '/' || tenant_id as account, negative_since from account order by account_id"

# New money does not restart the grace period; what gives back does.
_NEW_MONEY = ("payment", "grant")


async def audit_standings(connection: Connection) -> list[str]:
    """The differences found, each one sentence."""
    since: dict[int, int] = {}
    async for row in connection.cursor(_ENTRIES, prefetch=_PREFETCH):
        account_id, before = row["account_id"], row["after"] - row["delta"]
        if row["after"] >= 0:
            since.pop(account_id, None)
        elif before >= 0 or (row["delta"] > 0 and row["class"] not in _NEW_MONEY):
            since[account_id] = row["posted_at"]
    return [
        f"{row['account']}: below zero since {_tell(row['negative_since'])}, "
        f"its entries say {_tell(since.get(row['account_id']))}"
        for row in await connection.fetch(_NEGATIVE)
        if row["negative_since"] != since.get(row["account_id"])
    ]


def _tell(instant_us: int | None) -> str:
    return "never" if instant_us is None else format_instant(instant_us)
