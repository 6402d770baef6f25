"""Grants, what is left of them, and up to which entry that was worked out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from services.balance.rules.grants import Burning, Grant
from shared.db import Connection


@dataclass(frozen=True, slots=True)
class StoredGrant:
    """A grant as it was given: nothing of this ever changes."""

    grant_id: str
    account_id: int
    kind: str
    amount_micros: int
    priority: int
    expires_at_us: int
    granted_at_us: int
    idempotency_key: str
    request_hash: bytes
    reason: str
    actor: str


_COLUMNS = """
    grant_id, account_id, kind, amount_micros, priority, expires_at, granted_at, idempotency_key, request_hash, reason,
    actor
"""


async def load_grant(connection: Connection, account_id: int, idempotency_key: str) -> StoredGrant | None:
    row = await connection.fetchrow(
        f"select {_COLUMNS} from promotional_grant where account_id = $1 and idempotency_key = $2",  # noqa: S608 - a constant
        account_id,
        idempotency_key,
    )
    return None if row is None else StoredGrant(*row)


async def load_grants(connection: Connection, account_id: int) -> list[StoredGrant]:
    rows = await connection.fetch(
        f"select {_COLUMNS} from promotional_grant where account_id = $1 order by grant_number",  # noqa: S608 - a constant
        account_id,
    )
    return [StoredGrant(*row) for row in rows]


async def insert_grant(connection: Connection, grant: StoredGrant) -> None:
    await connection.execute(
        f"""
        with given as (
          insert into promotional_grant ({_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        )
        insert into grant_standing (grant_id, account_id, expires_at, remaining_micros) values ($1, $2, $6, 0)
        """,  # noqa: S608 - a constant
        grant.grant_id,
        grant.account_id,
        grant.kind,
        grant.amount_micros,
        grant.priority,
        grant.expires_at_us,
        grant.granted_at_us,
        grant.idempotency_key,
        grant.request_hash,
        grant.reason,
        grant.actor,
    )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Burning as of an entry. `expiries` counts, per grant, how often a rest of it expired; `over` has no rest."""

    entry_number: int
    burning: Burning
    grants: Mapping[str, Grant]
    expiries: Mapping[str, int]
    over: frozenset[str]


async def load_checkpoint(connection: Connection, account_id: int) -> Checkpoint | None:
    row = await connection.fetchrow(
        """
        select entry_number, bought_micros, usage_debt_micros, cash_debt_micros, burns
        from grant_checkpoint where account_id = $1
        """,
        account_id,
    )
    if row is None:
        return None
    standings = await connection.fetch(
        """
        select s.grant_id, g.grant_number, g.priority, g.expires_at, s.remaining_micros, s.expiries, s.is_over,
               s.expired_micros, s.claimed_micros
        from grant_standing s join promotional_grant g using (grant_id) where s.account_id = $1
        """,
        account_id,
    )
    burning = Burning(
        {item["grant_id"]: item["remaining_micros"] for item in standings},
        row["bought_micros"],
        row["usage_debt_micros"],
        row["cash_debt_micros"],
        tuple((source, amount) for source, amount in orjson.loads(row["burns"])),
        {item["grant_id"]: item["expired_micros"] for item in standings},
        {item["grant_id"]: item["claimed_micros"] for item in standings},
    )
    return Checkpoint(
        row["entry_number"],
        burning,
        {item[0]: Grant(item[0], item[1], item[2], item[3]) for item in standings},
        {item["grant_id"]: item["expiries"] for item in standings},
        frozenset(item["grant_id"] for item in standings if item["is_over"]),
    )


async def save_checkpoint(
    connection: Connection, account_id: int, entry_number: int, burning: Burning, now_us: int
) -> None:
    """Save burning as of an entry; the caller holds the account, so that its credits are those of that entry."""
    await connection.execute(
        """
        insert into grant_checkpoint (account_id, entry_number, credits, bought_micros, usage_debt_micros,
          cash_debt_micros, burns, worked_out_at)
        select $1, $2, credits, $3, $4, $5, $6, $7 from account where account_id = $1
        on conflict (account_id) do update set entry_number = excluded.entry_number, credits = excluded.credits,
          bought_micros = excluded.bought_micros, usage_debt_micros = excluded.usage_debt_micros,
          cash_debt_micros = excluded.cash_debt_micros, burns = excluded.burns, worked_out_at = excluded.worked_out_at
        """,
        account_id,
        entry_number,
        burning.bought_micros,
        burning.usage_debt_micros,
        burning.cash_debt_micros,
        orjson.dumps(burning.burns).decode(),
        now_us,
    )
    names = list({**burning.remaining, **burning.expired, **burning.claims})
    await connection.execute(
        """
        update grant_standing s
        set remaining_micros = r.remaining, expired_micros = r.expired, claimed_micros = r.claimed
        from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) r(grant_id, remaining, expired, claimed)
        where s.grant_id = r.grant_id
        """,
        names,
        *([amounts.get(name, 0) for name in names] for amounts in (burning.remaining, burning.expired, burning.claims)),
    )


@dataclass(frozen=True, slots=True)
class BurningEntry:
    """An entry, with what its batch says of when it was used: all of it began in `[used_from_us, used_until_us)`."""

    entry_number: int
    entry_class: str
    delta_micros: int
    posted_at_us: int
    fact_id: str | None
    kind: str | None
    shard: int
    seq: int | None
    used_from_us: int | None
    used_until_us: int | None
    region: str
    tenant_id: str


async def load_burning_entries(connection: Connection, account_id: int, after_number: int) -> list[BurningEntry]:
    """The entries of an account after one, by number."""
    rows = await connection.fetch(
        """
        select e.entry_number, e.class,
               case when e.credit_account = 'customer' then e.amount_micros else -e.amount_micros end as delta,
               e.posted_at, e.fact_id,
               substring(case when e.debit_account = 'customer' then e.credit_account else e.debit_account end
                         from '^revenue:(.*)$') as kind,
               e.shard, e.seq, v.used_from, v.used_until, a.region, a.tenant_id
        from entry e join account a using (account_id)
        left join evidence v on (v.shard, v.seq, v.day) = (e.shard, e.seq, e.day)
        where e.account_id = $1 and e.entry_number > $2 order by e.entry_number
        """,
        account_id,
        after_number,
    )
    return [BurningEntry(*row) for row in rows]


async def load_charged_through(connection: Connection, shard: int) -> int | None:
    """Up to where all resources of a shard are charged with what is posted; None: metering never said so."""
    through_us: int | None = await connection.fetchval(
        "select charged_through from charge_stream where shard = $1", shard
    )
    return through_us


async def load_last_solvent(connection: Connection, account_id: int) -> tuple[int, int]:
    """The last entry that left the account at or above zero, and its balance; number 0 where there is none."""
    row = await connection.fetchrow(
        """
        select entry_number, balance_after_micros from entry
        where account_id = $1 and balance_after_micros >= 0 order by entry_number desc limit 1
        """,
        account_id,
    )
    return (0, 0) if row is None else (row["entry_number"], row["balance_after_micros"])


async def load_accounts_to_work_out(
    connection: Connection, kind: str, now_us: int, worked_out_before_us: int, limit: int
) -> list[int]:
    """Accounts with a grant that is due to expire, a credit since the checkpoint, or a checkpoint long ago.

    Due is a grant once everything up to its end is posted; where metering never said how far that is, at its end.
    Without accounts that are set aside under `kind`.
    """
    rows = await connection.fetch(
        """
        with held as (select item::bigint as account_id from set_aside s where kind = $4 and still_held(s, $1))
        (select g.account_id from grant_standing g join account a using (account_id)
         left join charge_stream s using (shard)
         where not g.is_over and g.expires_at <= coalesce(date_trunc('minute', s.charged_through, 'UTC'), $1)
           and g.account_id not in (select account_id from held) order by g.expires_at limit $3)
        union
        (select c.account_id from grant_checkpoint c join account a using (account_id)
         where (a.credits > c.credits or (a.entries > c.entry_number and c.worked_out_at < $2))
           and a.account_id not in (select account_id from held) limit $3)
        """,
        now_us,
        worked_out_before_us,
        limit,
        kind,
    )
    return [row["account_id"] for row in rows]


async def ask_to_work_out(connection: Connection, accounts: Sequence[tuple[str, str]]) -> None:
    """Have those (region, tenant_id) worked out next of whose grants a rest expired; the caller holds the accounts."""
    await connection.execute(
        """
        update grant_checkpoint c set worked_out_at = '1970-01-01 00:00:00+00'
        from unnest($1::text[], $2::text[]) k(region, tenant_id) join account a using (region, tenant_id)
        where c.account_id = a.account_id
          and exists (select from grant_standing s where s.account_id = c.account_id and s.is_over)
        """,
        [region for region, _ in accounts],
        [tenant_id for _, tenant_id in accounts],
    )


async def is_working_out(connection: Connection, account_id: int) -> bool:
    """Whether use was told late that a grant whose rest has expired may pay: a moment later the account has more."""
    found: bool = await connection.fetchval(
        """
        select exists (select from grant_checkpoint c join account a using (account_id)
          where c.account_id = $1 and c.worked_out_at = '1970-01-01 00:00:00+00' and a.entries > c.entry_number)
        """,
        account_id,
    )
    return found


async def end_grants(connection: Connection, grant_ids: Sequence[str], expired: Sequence[str]) -> None:
    """Mark grants as over; of `expired` a rest was posted now, or what expired was taken back."""
    await connection.execute(
        "update grant_standing set is_over = true, expiries = expiries + (grant_id = any($2::text[]))::int"
        " where grant_id = any($1::text[])",
        list(grant_ids),
        list(expired),
    )
