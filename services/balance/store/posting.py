"""The hot statement: move accounts and insert their entries, in one round trip."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from services.balance.rules.crossing import Standing
from services.balance.rules.posting import Posting
from shared.db import Connection, day_of

# Accounts are locked by the update itself, in whatever order the plan takes: the chain heads that the transaction holds
# are the fence, because an account has one shard and whoever takes several accounts holds their shards' heads first.
#
# Answered are only accounts for which something may have to be told. Nothing is when an account in `ok` stays above its
# burn, one in `low` was told and was in it from the start, or one below zero sinks further: in all three without a
# credit and with one burn throughout, so that the first and the last balance say all about those between.
_POST = """
with moved as (
  select * from unnest($1::bigint[], $2::bigint[], $3::int[], $4::int[], $5::bigint[], $6::int[])
    m(account_id, delta, entries, credits, burn, place)
), updated as (
  update account a set
    balance_micros = a.balance_micros + m.delta, burn_micros_per_hour = m.burn, entries = a.entries + m.entries,
    credits = a.credits + m.credits, last_posted_at = ($13::timestamptz[])[m.place]
  from moved m where a.account_id = m.account_id
  returning a.account_id, old.balance_micros as balance_before, old.entries as entries_before, a.state, a.low_told,
    a.shard, a.region, a.tenant_id, a.currency, old.burn_micros_per_hour as burn_before, a.account_version,
    a.negative_since, a.low_told_at, a.balance_micros as balance, a.burn_micros_per_hour as burn, m.credits as credited,
    a.held_micros
), inserted as (
  insert into entry (account_id, entry_number, day, posted_at, debit_account, credit_account, amount_micros,
    balance_after_micros, class, shard, seq, adjustment_key, fact_id, link_number)
  select e.account_id, u.entries_before + e.ordinal, ($12::date[])[c.place], ($13::timestamptz[])[c.place],
    ($14::text[])[e.side], ($15::text[])[e.side], e.amount, u.balance_before + e.running, ($16::text[])[e.side],
    u.shard, c.seq, c.adjustment_key, c.fact_id, ($11::bigint[])[c.place]
  from unnest($7::bigint[], $8::int[], $9::bigint[], $10::bigint[], $17::int[], $18::int[])
    e(account_id, ordinal, amount, running, side, cause)
  join updated u using (account_id)
  join unnest($19::int[], $20::bigint[], $21::text[], $23::text[]) with ordinality
    c(place, seq, adjustment_key, fact_id, number)
    on c.number = e.cause
)
select * from updated u
where u.account_id = any($22::bigint[]) or not (u.credited = 0 and (
  (u.state = 'ok' and u.balance > 0 and u.balance >= u.burn)
  or (u.state = 'low' and u.low_told and u.balance > 0 and u.balance_before - u.burn < u.burn / 4)
  or (u.state = 'negative' and u.balance < 0)
))
"""


@dataclass(frozen=True, slots=True)
class Touched:
    """An account for which something may have to be told, as it stood before the posting."""

    account_id: int
    shard: int
    region: str
    tenant_id: str
    currency: str
    before: Standing


@dataclass(frozen=True, slots=True)
class Place:
    """A shard within a posting: when it is posted, and the chain link that seals it."""

    shard: int
    posted_at_us: int
    link_number: int


async def prefer_plans_by_size(connection: Connection) -> None:
    """Let the planner see how long the arrays are, each time: a plan for ten rows is ruinous for ten thousand."""
    await connection.execute(
        "select set_config('plan_cache_mode', 'force_custom_plan', true), set_config('random_page_cost', '1.1', true)"
    )


async def post_entries(connection: Connection, posting: Posting, places: Sequence[Place]) -> list[Touched]:
    """Move the accounts of a posting and insert its entries; the caller holds the chain heads of `places`."""
    columns: list[Sequence[int]] = list(zip(*posting.accounts, strict=True)) or [()] * 6
    ids, deltas, counts, favours, burns, at_places = columns
    rows: list[Sequence[int]] = list(zip(*posting.entries, strict=True)) or [()] * 6
    entry_ids, ordinals, amounts, running, sides, causes = rows
    found = await connection.fetch(
        _POST,
        *(ids, deltas, counts, favours, burns, [place + 1 for place in at_places]),
        *(entry_ids, ordinals, amounts, running),
        [place.link_number for place in places],
        [day_of(place.posted_at_us) for place in places],
        [place.posted_at_us for place in places],
        [side.debit_account for side in posting.sides],
        [side.credit_account for side in posting.sides],
        [side.entry_class for side in posting.sides],
        # Arrays count from one in SQL.
        *([side + 1 for side in sides], [cause + 1 for cause in causes]),
        [cause.place + 1 for cause in posting.causes],
        [cause.seq for cause in posting.causes],
        [cause.adjustment_key for cause in posting.causes],
        posting.restless,
        [cause.fact_id for cause in posting.causes],
    )
    return [_touched(row) for row in found]


def _touched(row: asyncpg.Record) -> Touched:
    return Touched(
        account_id=row["account_id"],
        shard=row["shard"],
        region=row["region"],
        tenant_id=row["tenant_id"],
        currency=row["currency"],
        before=Standing(
            state=row["state"],
            balance_micros=row["balance_before"],
            burn_micros_per_hour=row["burn_before"],
            account_version=row["account_version"],
            negative_since_us=row["negative_since"],
            low_told=row["low_told"],
            low_told_at_us=row["low_told_at"],
            held_micros=row["held_micros"],
        ),
    )
