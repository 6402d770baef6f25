"""Agreements on automatic top-up and the charges made by them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import asyncpg
import orjson

from services.payment.rules.auto_top_up import Attempt, AttemptState, AutoTopUp, SuspensionReason
from services.payment.rules.facts import SavedCard
from services.payment.store.restores import load_incarnation
from shared.db import Connection


@dataclass(frozen=True, slots=True)
class StoredAgreement:
    """An agreement with the card that it is about; `suspensions` counts how often it stopped by itself.

    `number` counts what an account agreed to: it grows with each agreement that takes another's place.
    """

    region: str
    tenant_id: str
    terms: AutoTopUp
    card: SavedCard
    enabled: bool
    suspensions: int
    number: int = 0


@dataclass(frozen=True, slots=True)
class StoredAttempt:
    """A charge of a saved card by one agreement.

    `sent_at_us`: when the provider first may have heard of it; `tried_at_us`: last sent or asked about.
    """

    order_id: str
    region: str
    tenant_id: str
    number: int
    attempt: Attempt
    agreement_number: int
    card: SavedCard
    sent_at_us: int | None = None
    tried_at_us: int | None = None

    @property
    def account(self) -> str:
        return f"{self.region}/{self.tenant_id}"


_COLUMNS = """
    region, tenant_id, threshold_micros, target_micros, daily_cap_micros, monthly_cap_micros, suspended_reason,
    card_customer, card_method, enabled, suspensions, agreement_number
"""
# What was given up and paid all the same is paid. A restore may have lost that an attempt from before it was sent.
_ATTEMPT = """
    a.order_id, a.region, a.tenant_id, a.number, a.at, a.amount_micros,
    case when a.state in ('withdrawn', 'declined') and exists (
        select from payment p where p.order_id = a.order_id and p.credit_micros is not null
      ) then 'paid' else a.state end as state,
    a.agreement_number, a.card_customer, a.card_method,
    coalesce(a.sent_at, case when exists (select from restore_record r where r.restored_at >= a.at) then a.at end)
      as sent_at,
    a.tried_at
"""
# Numbers of a lost future are passed over: they name charges that happened.
ATTEMPTS_PER_INCARNATION: Final = 1_000_000
# What the loop over accounts and open attempts calls an account that it has to leave out (shared.set_aside).
SET_ASIDE_KIND: Final = "auto-top-up"


def _read(row: asyncpg.Record | None) -> StoredAgreement | None:
    if row is None:
        return None
    terms = AutoTopUp(
        row["threshold_micros"],
        row["target_micros"],
        row["daily_cap_micros"],
        row["monthly_cap_micros"],
        row["suspended_reason"],
    )
    card = SavedCard(row["card_customer"], row["card_method"])
    return StoredAgreement(
        row["region"], row["tenant_id"], terms, card, row["enabled"], row["suspensions"], row["agreement_number"]
    )


async def load_agreement(connection: Connection, region: str, tenant_id: str) -> StoredAgreement | None:
    query = f"select {_COLUMNS} from auto_top_up where (region, tenant_id) = ($1, $2)"  # noqa: S608 - a constant
    return _read(await connection.fetchrow(query, region, tenant_id))


async def lock_agreement(connection: Connection, region: str, tenant_id: str) -> StoredAgreement | None:
    query = f"select {_COLUMNS} from auto_top_up where (region, tenant_id) = ($1, $2) for update"  # noqa: S608 - a constant
    return _read(await connection.fetchrow(query, region, tenant_id))


async def load_active(connection: Connection, after: tuple[str, str], limit: int, now_us: int) -> list[tuple[str, str]]:
    """Accounts whose card may be charged, by name; without those that are set aside."""
    rows = await connection.fetch(
        """
        select region, tenant_id from auto_top_up
        where enabled and suspended_reason is null and (region, tenant_id) > ($1, $2)
          and region || '/' || tenant_id not in (select item from set_aside s where kind = $4 and still_held(s, $5))
        order by region, tenant_id limit $3
        """,
        *after,
        limit,
        SET_ASIDE_KIND,
        now_us,
    )
    return [(row["region"], row["tenant_id"]) for row in rows]


async def save_agreement(
    connection: Connection, agreement: StoredAgreement, consent: str, actor: str, now_us: int
) -> None:
    """Keep an agreement in place of the one before, with the consent that it rests on."""
    terms, card = agreement.terms, agreement.card
    amounts = (terms.threshold_micros, terms.target_micros, terms.daily_cap_micros, terms.monthly_cap_micros)
    await connection.execute(
        """
        insert into auto_top_up (region, tenant_id, threshold_micros, target_micros, daily_cap_micros,
          monthly_cap_micros, card_customer, card_method, enabled, changed_at, agreement_number)
        values ($1, $2, $3, $4, $5, $6, $7, $8, true, $9, 1)
        on conflict (region, tenant_id) do update set
          threshold_micros = excluded.threshold_micros, target_micros = excluded.target_micros,
          daily_cap_micros = excluded.daily_cap_micros, monthly_cap_micros = excluded.monthly_cap_micros,
          card_customer = excluded.card_customer, card_method = excluded.card_method, enabled = true,
          suspended_reason = null, changed_at = excluded.changed_at,
          agreement_number = auto_top_up.agreement_number + 1
        """,
        agreement.region,
        agreement.tenant_id,
        *amounts,
        card.customer,
        card.method,
        now_us,
    )
    names = ("threshold_micros", "target_micros", "daily_cap_micros", "monthly_cap_micros")
    await connection.execute(
        """
        insert into auto_top_up_consent (region, tenant_id, consent, actor, agreement, consented_at)
        values ($1, $2, $3, $4, $5, $6)
        """,
        agreement.region,
        agreement.tenant_id,
        consent,
        actor,
        orjson.dumps(dict(zip(names, amounts, strict=True))).decode(),
        now_us,
    )


async def disable(connection: Connection, region: str, tenant_id: str, now_us: int) -> bool:
    status = await connection.execute(
        "update auto_top_up set enabled = false, changed_at = $3 where (region, tenant_id) = ($1, $2) and enabled",
        region,
        tenant_id,
        now_us,
    )
    return status.endswith(" 1")


async def find_reversal(connection: Connection, region: str, tenant_id: str) -> Literal["refunded", "disputed"] | None:
    """Whether a payment of the account was refunded, or disputed and not won, since its customer last agreed."""
    row = await connection.fetchrow(
        """
        with agreed as (
          select max(consented_at) as at from auto_top_up_consent where (region, tenant_id) = ($1, $2))
        select
          exists (select from payment p join dispute d using (payment_id), agreed
            where (p.region, p.tenant_id) = ($1, $2) and d.changed_at > agreed.at and d.outcome <> 'won') as disputed,
          exists (select from payment p join refund r using (payment_id), agreed
            where (p.region, p.tenant_id) = ($1, $2) and r.changed_at > agreed.at and r.state <> 'failed') as refunded
        """,
        region,
        tenant_id,
    )
    assert row is not None, "a query of two columns has a row"
    if row["disputed"]:
        return "disputed"
    return "refunded" if row["refunded"] else None


async def suspend(connection: Connection, region: str, tenant_id: str, reason: SuspensionReason, now_us: int) -> None:
    await connection.execute(
        """
        update auto_top_up set suspended_reason = $3, suspensions = suspensions + 1, changed_at = $4
        where (region, tenant_id) = ($1, $2)
        """,
        region,
        tenant_id,
        reason,
        now_us,
    )


async def load_attempts(connection: Connection, region: str, tenant_id: str, since_us: int) -> list[StoredAttempt]:
    """Attempts since an instant and all that are open, newest first."""
    rows = await connection.fetch(
        f"""
        select {_ATTEMPT} from auto_top_up_attempt a
        where (a.region, a.tenant_id) = ($1, $2) and (a.at >= $3 or a.state = 'open') order by a.number desc
        """,  # noqa: S608 - constants
        region,
        tenant_id,
        since_us,
    )
    return [_read_attempt(row) for row in rows]


async def load_open_attempts(
    connection: Connection, after: tuple[int, str], limit: int, now_us: int
) -> list[StoredAttempt]:
    """A page of open attempts, oldest first; without those of accounts that are set aside."""
    rows = await connection.fetch(
        f"""
        select {_ATTEMPT} from auto_top_up_attempt a
        where a.state = 'open' and (a.at, a.order_id) > ($1, $2)
          and a.region || '/' || a.tenant_id not in (select item from set_aside s where kind = $4 and still_held(s, $5))
        order by a.at, a.order_id limit $3
        """,  # noqa: S608 - constants
        *after,
        limit,
        SET_ASIDE_KIND,
        now_us,
    )
    return [_read_attempt(row) for row in rows]


async def load_open_attempts_of(connection: Connection, region: str, tenant_id: str) -> list[StoredAttempt]:
    """The open attempts of an account, locked; the caller has locked its agreement."""
    rows = await connection.fetch(
        f"""
        select {_ATTEMPT} from auto_top_up_attempt a
        where (a.region, a.tenant_id) = ($1, $2) and a.state = 'open' order by a.number for update of a
        """,  # noqa: S608 - constants
        region,
        tenant_id,
    )
    return [_read_attempt(row) for row in rows]


async def load_attempt(connection: Connection, order_id: str) -> StoredAttempt | None:
    query = f"select {_ATTEMPT} from auto_top_up_attempt a where a.order_id = $1"  # noqa: S608 - constants
    row = await connection.fetchrow(query, order_id)
    return None if row is None else _read_attempt(row)


async def mark_asked(connection: Connection, order_id: str, now_us: int) -> None:
    """Note that the provider was asked about a charge that may have happened."""
    await connection.execute("update auto_top_up_attempt set tried_at = $2 where order_id = $1", order_id, now_us)


async def mark_charging(connection: Connection, order_id: str, now_us: int, seconds: float) -> None:
    """Note that the charge goes out, before it does: what was sent once may have happened.

    For `seconds` its request may be on its way, unless `mark_answered` comes before: by PostgreSQL's clock, since the
    clock of whoever asks may be another.
    """
    await connection.execute(
        """
        update auto_top_up_attempt set tried_at = $2, sent_at = coalesce(sent_at, $2),
          charging_until = clock_timestamp() + make_interval(secs => $3)
        where order_id = $1
        """,
        order_id,
        now_us,
        seconds,
    )


async def mark_answered(connection: Connection, order_id: str) -> None:
    """Note that nothing of a charge is on its way any more, whatever came of it."""
    await connection.execute("update auto_top_up_attempt set charging_until = null where order_id = $1", order_id)


async def are_charging(connection: Connection, order_ids: Sequence[str]) -> bool:
    """Whether a request of one of these charges may still be on its way."""
    return bool(
        await connection.fetchval(
            """
            select exists (
              select from auto_top_up_attempt where order_id = any($1) and charging_until > clock_timestamp()
            )
            """,
            order_ids,
        )
    )


async def has_open_attempt(connection: Connection, order_id: str) -> bool:
    """Whether an order is the charge of a saved card whose outcome is open."""
    return bool(
        await connection.fetchval(
            "select exists (select from auto_top_up_attempt where order_id = $1 and state = 'open')", order_id
        )
    )


def _read_attempt(row: asyncpg.Record) -> StoredAttempt:
    attempt = Attempt(row["at"], row["amount_micros"], row["state"])
    return StoredAttempt(
        row["order_id"],
        row["region"],
        row["tenant_id"],
        row["number"],
        attempt,
        row["agreement_number"],
        SavedCard(row["card_customer"], row["card_method"]),
        row["sent_at"],
        row["tried_at"],
    )


async def load_last_attempt_number(connection: Connection, region: str, tenant_id: str) -> int:
    return int(
        await connection.fetchval(
            "select coalesce(max(number), 0) from auto_top_up_attempt where (region, tenant_id) = ($1, $2)",
            region,
            tenant_id,
        )
    )


async def load_next_attempt_number(connection: Connection, region: str, tenant_id: str) -> int:
    """A number that no attempt of the account has, nor had before a restore."""
    last = await load_last_attempt_number(connection, region, tenant_id)
    incarnation = await load_incarnation(connection)
    return max(last, incarnation * ATTEMPTS_PER_INCARNATION) + 1


async def insert_attempt(connection: Connection, found: StoredAttempt) -> None:
    await connection.execute(
        """
        insert into auto_top_up_attempt (order_id, region, tenant_id, number, amount_micros, at, state,
          agreement_number, card_customer, card_method)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        """,
        found.order_id,
        found.region,
        found.tenant_id,
        found.number,
        found.attempt.amount_micros,
        found.attempt.at_us,
        found.attempt.state,
        found.agreement_number,
        found.card.customer,
        found.card.method,
    )


async def end_attempt(connection: Connection, order_id: str, state: AttemptState, reason: str | None = None) -> bool:
    """End an open attempt; answer False where somebody did before."""
    status = await connection.execute(
        "update auto_top_up_attempt set state = $2, reason = $3 where order_id = $1 and state = 'open'",
        order_id,
        state,
        reason,
    )
    return status.endswith(" 1")


@dataclass(frozen=True, slots=True)
class UnderWay:
    """Captured payments of an account that its balance may not show yet, and what they credit in all."""

    payment_ids: frozenset[str]
    credit_micros: int


async def load_under_way(connection: Connection, region: str, tenant_id: str, since_us: int) -> UnderWay:
    """Payments that balance has not acknowledged, and those captured after an instant, acknowledged or not."""
    rows = await connection.fetch(
        """
        select payment_id, credit_micros from payment
        where (region, tenant_id) = ($1, $2) and credit_micros is not null and credited_at is null
        union
        select p.payment_id, p.credit_micros from payment p
        where (p.region, p.tenant_id) = ($1, $2) and p.credit_micros is not null and p.captured_at > $3
        """,
        region,
        tenant_id,
        since_us,
    )
    return UnderWay(frozenset(row["payment_id"] for row in rows), sum(row["credit_micros"] for row in rows))


async def load_saved_card(connection: Connection, region: str, tenant_id: str) -> SavedCard | None:
    """The card of the account's latest payment that saved one."""
    row = await connection.fetchrow(
        """
        select p.card_customer, p.card_method from payment p
        where (p.region, p.tenant_id) = ($1, $2) and p.provider = 'stripe' and p.card_method is not null
        order by p.payment_number desc limit 1
        """,
        region,
        tenant_id,
    )
    return None if row is None else SavedCard(*row)
