"""Agreements on automatic top-up and the charges made by them."""

from dataclasses import dataclass

import asyncpg
import orjson

from services.payment.rules.auto_top_up import Attempt, AttemptState, AutoTopUp, SuspensionReason
from services.payment.rules.facts import SavedCard
from shared.db import Connection


@dataclass(frozen=True, slots=True)
class StoredAgreement:
    """An agreement with the card that it is about; `suspensions` counts how often it stopped by itself."""

    region: str
    tenant_id: str
    terms: AutoTopUp
    card: SavedCard
    enabled: bool
    suspensions: int


@dataclass(frozen=True, slots=True)
class StoredAttempt:
    order_id: str
    region: str
    tenant_id: str
    number: int
    attempt: Attempt


_COLUMNS = """
    region, tenant_id, threshold_micros, target_micros, daily_cap_micros, monthly_cap_micros, suspended_reason,
    card_customer, card_method, enabled, suspensions
"""


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
    return StoredAgreement(row["region"], row["tenant_id"], terms, card, row["enabled"], row["suspensions"])


async def load_agreement(connection: Connection, region: str, tenant_id: str) -> StoredAgreement | None:
    query = f"select {_COLUMNS} from auto_top_up where (region, tenant_id) = ($1, $2)"  # noqa: S608 - a constant
    return _read(await connection.fetchrow(query, region, tenant_id))


async def lock_agreement(connection: Connection, region: str, tenant_id: str) -> StoredAgreement | None:
    query = f"select {_COLUMNS} from auto_top_up where (region, tenant_id) = ($1, $2) for update"  # noqa: S608 - a constant
    return _read(await connection.fetchrow(query, region, tenant_id))


async def load_active(connection: Connection, after: tuple[str, str], limit: int) -> list[tuple[str, str]]:
    """Accounts whose card may be charged, by name."""
    rows = await connection.fetch(
        """
        select region, tenant_id from auto_top_up
        where enabled and suspended_reason is null and (region, tenant_id) > ($1, $2)
        order by region, tenant_id limit $3
        """,
        *after,
        limit,
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
          monthly_cap_micros, card_customer, card_method, enabled, changed_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, true, $9)
        on conflict (region, tenant_id) do update set
          threshold_micros = excluded.threshold_micros, target_micros = excluded.target_micros,
          daily_cap_micros = excluded.daily_cap_micros, monthly_cap_micros = excluded.monthly_cap_micros,
          card_customer = excluded.card_customer, card_method = excluded.card_method, enabled = true,
          suspended_reason = null, changed_at = excluded.changed_at
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
        """
        select order_id, region, tenant_id, number, at, amount_micros, state from auto_top_up_attempt
        where (region, tenant_id) = ($1, $2) and (at >= $3 or state = 'open') order by number desc
        """,
        region,
        tenant_id,
        since_us,
    )
    return [_read_attempt(row) for row in rows]


async def load_open_attempts(connection: Connection, limit: int) -> list[StoredAttempt]:
    rows = await connection.fetch(
        """
        select order_id, region, tenant_id, number, at, amount_micros, state from auto_top_up_attempt
        where state = 'open' order by at limit $1
        """,
        limit,
    )
    return [_read_attempt(row) for row in rows]


def _read_attempt(row: asyncpg.Record) -> StoredAttempt:
    attempt = Attempt(row["at"], row["amount_micros"], row["state"])
    return StoredAttempt(row["order_id"], row["region"], row["tenant_id"], row["number"], attempt)


async def load_last_attempt_number(connection: Connection, region: str, tenant_id: str) -> int:
    return int(
        await connection.fetchval(
            "select coalesce(max(number), 0) from auto_top_up_attempt where (region, tenant_id) = ($1, $2)",
            region,
            tenant_id,
        )
    )


async def insert_attempt(connection: Connection, found: StoredAttempt) -> None:
    await connection.execute(
        """
        insert into auto_top_up_attempt (order_id, region, tenant_id, number, amount_micros, at, state)
        values ($1, $2, $3, $4, $5, $6, $7)
        """,
        found.order_id,
        found.region,
        found.tenant_id,
        found.number,
        found.attempt.amount_micros,
        found.attempt.at_us,
        found.attempt.state,
    )


async def end_attempt(connection: Connection, order_id: str, state: AttemptState) -> bool:
    """End an open attempt; answer False where somebody did before."""
    status = await connection.execute(
        "update auto_top_up_attempt set state = $2 where order_id = $1 and state = 'open'", order_id, state
    )
    return status.endswith(" 1")


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
