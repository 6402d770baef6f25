"""The hash chain, audited: every link computed anew from the entries, and heads against anchors kept elsewhere."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from services.balance.audit.difference import Difference
from services.balance.rules.chain import adjustment_cause, charge_cause, entry_line, fact_cause, seal
from shared.db import Connection
from shared.ids import content_hash

_PREFETCH = 5000
_NAMED_MAX = 5

_HEADS = """
select h.shard, coalesce(l.posted_at, h.last_posted_at) as at from chain_head h left join lateral (
  select link_number, link, posted_at from chain_link l where l.shard = h.shard order by link_number desc limit 1
) l on true
where h.link_number <> coalesce(l.link_number, 0) or h.link <> coalesce(l.link, '\\x')
"""

# No hour is closed that lies beyond the last posting, and only whole hours are.
_CLOSED = """
select shard, closed_through as at from chain_head
where closed_through <> date_bin('1 hour', closed_through, 'epoch')
   or closed_through > date_bin('1 hour', last_posted_at, 'epoch') + interval '1 hour'
"""

_OTHER_SIDES = """
select coalesce((select sum(balance_micros) from account), 0) + coalesce(sum(
  case when credit_account = 'customer' then -amount_micros else amount_micros end), 0) as rest, max(posted_at) as at
from entry
"""

# Of one account the links that seal an entry of it, each whole.
_SEALED = """
select l.shard, l.link_number, l.previous, l.link, l.entries, l.posted_at,
       e.account_id, e.debit_account, e.credit_account, e.class, e.amount_micros, e.seq, e.adjustment_key, e.fact_id,
       e.posted_at as entry_posted_at, v.sha256, j.amount_micros as adjusted_micros, j.reason, j.actor,
       a.region, a.tenant_id
from (
  select * from chain_link l where $1::bigint is null or (l.shard, l.link_number) in (
    select shard, link_number from entry where account_id = $1)
) l left join entry e on (e.shard, e.link_number) = (l.shard, l.link_number)
left join evidence v on (v.shard, v.seq) = (e.shard, e.seq)
left join adjustment j on (j.account_id, j.idempotency_key) = (e.account_id, e.adjustment_key)
left join account a on a.account_id = e.account_id
order by l.shard, l.link_number, e.account_id, e.entry_number
"""

_ANCHORED = """
select k.shard, k.link_number, k.posted_at as at, l.link is null as is_gone,
       (select count(*) from restore_record r where r.restored_at >= k.posted_at) as restores
from unnest($1::int[], $2::bigint[], $3::bytea[], $4::timestamptz[]) k(shard, link_number, link, posted_at)
left join chain_link l using (shard, link_number)
where l.link is distinct from k.link or l.posted_at is distinct from k.posted_at
order by k.shard, k.link_number
"""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A shard's head as it was told outside of the database."""

    shard: int
    link_number: int
    link: bytes
    posted_at_us: int


async def audit_heads(connection: Connection) -> AsyncIterator[Difference]:
    """What concerns a shard, or the books as a whole: they sum to zero."""
    for row in await connection.fetch(_HEADS):
        yield Difference(f"shard {row['shard']}", row["at"], "the chain's head is not its last link")
    for row in await connection.fetch(_CLOSED):
        yield Difference(f"shard {row['shard']}", row["at"], "hours are closed that can't be")
    [row] = await connection.fetch(_OTHER_SIDES)
    if row["rest"] != 0:
        yield Difference("all accounts", row["at"], f"the books do not sum to zero but to {row['rest']}")


async def audit_anchors(connection: Connection, anchors: Sequence[Anchor]) -> AsyncIterator[Difference]:
    """Whether the chain still holds what was told of it: it may be rewritten whole, what is elsewhere may not."""
    rows = await connection.fetch(
        _ANCHORED,
        [anchor.shard for anchor in anchors],
        [anchor.link_number for anchor in anchors],
        [anchor.link for anchor in anchors],
        [anchor.posted_at_us for anchor in anchors],
    )
    for row in rows:
        what = f"link {row['link_number']} {'is gone' if row['is_gone'] else 'is not what was anchored'}"
        if row["restores"]:
            what += "; the database was restored since then (`tollkeeper restores list`)"
        yield Difference(f"shard {row['shard']}", row["at"], what)


@dataclass(slots=True)
class _Link:
    """A link, and what was found of its entries."""

    row: Any
    lines: list[str] = field(default_factory=list)
    accounts: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The accounts that it seals, or its shard where there are many or none."""
        shard = f"shard {self.row['shard']}"
        named = sorted(set(self.accounts))
        if not named or len(named) > _NAMED_MAX:
            return shard
        return ", ".join(named)


async def audit_chain(connection: Connection, account_id: int | None) -> AsyncIterator[Difference]:
    """Compute every link again from the entries, in order; of one account those that seal it."""
    current: _Link | None = None
    last: dict[int, tuple[int, bytes]] = {}
    follows = account_id is None
    async for row in connection.cursor(_SEALED, account_id, prefetch=_PREFETCH):
        place = row["shard"], row["link_number"]
        if current is None or place != (current.row["shard"], current.row["link_number"]):
            if current is not None:
                for difference in _check(current, last, follows=follows):
                    yield difference
            current = _Link(row)
        if row["account_id"] is not None:
            account = f"{row['region']}/{row['tenant_id']}"
            current.accounts.append(account)
            current.lines.append(_line(row))
            if row["entry_posted_at"] != row["posted_at"]:
                yield Difference(account, row["posted_at"], f"an entry has another time than its link {place[1]}")
    if current is not None:
        for difference in _check(current, last, follows=follows):
            yield difference


def _line(row: Any) -> str:  # noqa: ANN401 - a record of asyncpg
    account = f"{row['region']}/{row['tenant_id']}"
    if row["fact_id"] is not None:
        cause = fact_cause(account, row["fact_id"])
    elif row["adjustment_key"] is not None:
        words = orjson.dumps([row["adjusted_micros"], row["reason"], row["actor"]])
        cause = adjustment_cause(account, row["adjustment_key"], content_hash(words))
    else:
        cause = charge_cause(row["seq"], row["sha256"] or b"")
    sides = f"{row['debit_account']} {row['credit_account']} {row['class']}"
    return entry_line(row["account_id"], sides, row["amount_micros"], cause)


def _check(found: _Link, last: dict[int, tuple[int, bytes]], *, follows: bool) -> list[Difference]:
    row = found.row
    shard, number = row["shard"], row["link_number"]
    last_number, previous = last.get(shard, (0, b"")) if follows else (number - 1, row["previous"])
    last[shard] = number, row["link"]
    if number != last_number + 1 or row["previous"] != previous:
        return [Difference(f"shard {shard}", row["posted_at"], f"link {number} does not follow link {last_number}")]
    what = None
    if row["entries"] != len(found.lines):
        what = f"link {number} sealed {row['entries']} entries, found {len(found.lines)}"
    elif seal(previous, shard, number, row["posted_at"], found.lines) != row["link"]:
        what = f"link {number}: the entries are not those that were sealed"
    return [] if what is None else [Difference(found.name, row["posted_at"], what)]
