"""Captured payments with their refunds and disputes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.payment.providers import ProviderName
from services.payment.rules.decision import Dispute, Refund
from services.payment.rules.facts import Money, Paid
from services.payment.rules.reversals import Payment
from shared.db import Connection

# Ascending, so that nobody waits for one another in a circle.
LOCK_PAYMENT_IDS = """
    select pg_advisory_xact_lock(key) from (
      select distinct hashtextextended(id, 20) as key from unnest($1::text[]) id order by key offset 0
    ) keys
"""


@dataclass(frozen=True, slots=True)
class StoredPayment:
    """A payment with whose it is; `region` and `tenant_id` are None until an operator says so."""

    payment: Payment
    order_id: str | None
    region: str | None
    tenant_id: str | None
    provider: ProviderName
    account_currency: str | None


async def lock_payment_ids(connection: Connection, payment_ids: Sequence[str]) -> None:
    """Let nobody else decide about these payments in this transaction, whether they have rows yet or not."""
    if payment_ids:
        await connection.execute(LOCK_PAYMENT_IDS, list(payment_ids))


async def load_payment(connection: Connection, payment_id: str) -> StoredPayment | None:
    """A payment with its reversals, as the rules see it."""
    row = await connection.fetchrow(
        """
        select p.*, array(
            select row(r.refund_id, r.amount_micros, r.state, r.reason) from refund r
            where r.payment_id = p.payment_id order by r.at, r.refund_id
          ) as refunds, array(
            select row(d.dispute_id, d.amount_micros, d.held_micros, d.withdrawn, d.outcome) from dispute d
            where d.payment_id = p.payment_id order by d.at, d.dispute_id
          ) as disputes
        from payment p where p.payment_id = $1
        """,
        payment_id,
    )
    if row is None:
        return None
    payment = Payment(
        payment_id,
        Money(row["paid_micros"], row["paid_currency"]),
        row["credit_micros"],
        row["credited_at"] is not None,
        tuple(Refund(*item) for item in row["refunds"]),
        tuple(Dispute(*item) for item in row["disputes"]),
    )
    return StoredPayment(
        payment, row["order_id"], row["region"], row["tenant_id"], row["provider"], row["account_currency"]
    )


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose payment it is, and in which currency it is credited."""

    region: str
    tenant_id: str
    account_currency: str


@dataclass(frozen=True, slots=True)
class NewPayment:
    """A payment as captured; `credit_micros` None: nothing is credited for it yet."""

    fact: Paid
    provider: ProviderName
    order_id: str | None
    holder: Holder | None
    credit_micros: int | None


async def insert_payments(connection: Connection, payments: Sequence[NewPayment], now_us: int) -> None:
    """Keep payments that have no rows yet."""
    if not payments:
        return
    columns = zip(*(_columns_of(payment) for payment in payments), strict=True)
    await connection.execute(
        """
        insert into payment (captured_at, payment_id, order_id, region, tenant_id, provider, paid_micros, paid_currency,
          account_currency, credit_micros, paid_at, reference, payer_name, payer_email, card_customer, card_method,
          unknown_order_id)
        select $1, * from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[],
          $9::text[], $10::bigint[], $11::timestamptz[], $12::text[], $13::text[], $14::text[], $15::text[],
          $16::text[], $17::text[])
        """,
        now_us,
        *columns,
    )


def _columns_of(payment: NewPayment) -> tuple[object, ...]:
    """A payment's columns in the order of `insert_payments`, after the instant of capture."""
    fact, holder = payment.fact, payment.holder
    payer, card = fact.payer, fact.saved_card
    return (
        fact.payment_id,
        payment.order_id,
        None if holder is None else holder.region,
        None if holder is None else holder.tenant_id,
        payment.provider,
        fact.money.amount_micros,
        fact.money.currency,
        None if holder is None else holder.account_currency,
        payment.credit_micros,
        fact.at_us,
        fact.reference,
        (payer and payer.name) or "",
        (payer and payer.email) or "",
        None if card is None else card.customer,
        None if card is None else card.method,
        fact.order_id if payment.order_id is None else None,
    )


@dataclass(frozen=True, slots=True)
class NamingPayment:
    """A payment that names an order which is not known here."""

    payment_id: str
    paid: Money
    credit_micros: int | None
    paid_at_us: int


async def load_payments_naming(connection: Connection, order_id: str) -> list[NamingPayment]:
    """The payments that name an order which was not there when they came, or which a restore lost; oldest first."""
    rows = await connection.fetch(
        """
        select payment_id, paid_micros, paid_currency, credit_micros, paid_at from payment
        where unknown_order_id = $1 order by payment_number
        """,
        order_id,
    )
    return [
        NamingPayment(
            row["payment_id"], Money(row["paid_micros"], row["paid_currency"]), row["credit_micros"], row["paid_at"]
        )
        for row in rows
    ]


async def tie_payment(connection: Connection, payment_id: str, order_id: str) -> None:
    """Make a payment its order's own, now that the order is known; the caller holds the payment's id."""
    await connection.execute(
        "update payment set order_id = $2, unknown_order_id = null where payment_id = $1 and unknown_order_id = $2",
        payment_id,
        order_id,
    )


async def complete_payment(connection: Connection, fact: Paid) -> None:
    """Add what a payment's first telling did not say: Checkout names the payer, the intent the saved card."""
    payer, card = fact.payer, fact.saved_card
    await connection.execute(
        """
        update payment set
          payer_name = case when payer_name = '' then $2::text else payer_name end,
          payer_email = case when payer_email = '' then $3::text else payer_email end,
          card_customer = coalesce(card_customer, $4::text), card_method = coalesce(card_method, $5::text)
        where payment_id = $1 and (($2::text <> '' and payer_name = '') or ($3::text <> '' and payer_email = '')
          or ($5::text is not null and card_method is null))
        """,
        fact.payment_id,
        (payer and payer.name) or "",
        (payer and payer.email) or "",
        None if card is None else card.customer,
        None if card is None else card.method,
    )


async def credit_payment(connection: Connection, payment_id: str, holder: Holder, credit_micros: int) -> None:
    """Say what is credited for a payment that had nothing yet, and to whom."""
    await connection.execute(
        """
        update payment set credit_micros = $2, region = $3, tenant_id = $4, account_currency = $5
        where payment_id = $1 and credit_micros is null
        """,
        payment_id,
        credit_micros,
        holder.region,
        holder.tenant_id,
        holder.account_currency,
    )


async def mark_credited(connection: Connection, credited: Mapping[str, int], cause: str, now_us: int) -> list[str]:
    """Remember when balance credited payments, once; their orders follow. Answers the payments that are not known.

    An order that is paid becomes credited; one that is disputed or refunded stays so, as `derive_state` has it.
    """
    columns = list(credited), list(credited.values())
    known = await connection.fetchval(
        """
        with marked as (
          update payment p set credited_at = coalesce(p.credited_at, c.at)
          from unnest($1::text[], $2::timestamptz[]) c(payment_id, at) where p.payment_id = c.payment_id
          returning p.payment_id, p.order_id
        ), moved as (
          update payment_order o set state = 'credited', transitions = o.transitions + 1 from marked m
          where o.order_id = m.order_id and o.payment_id = m.payment_id and o.state = 'paid'
          returning o.order_id, o.transitions
        ), told as (
          insert into order_transition (order_id, number, from_state, to_state, cause, at)
          select order_id, transitions, 'paid', 'credited', $3, $4 from moved
        )
        select array_agg(payment_id) from marked
        """,
        *columns,
        cause,
        now_us,
    )
    return sorted(set(credited) - set(known or ()))


async def load_reversal_times(connection: Connection, payment_id: str) -> dict[str, int]:
    """When each refund and dispute of a payment was first heard of."""
    rows = await connection.fetch(
        """
        select refund_id, at from refund where payment_id = $1
        union all select dispute_id, at from dispute where payment_id = $1
        """,
        payment_id,
    )
    return {row[0]: row[1] for row in rows}


async def upsert_refund(connection: Connection, payment_id: str, refund: Refund, told_micros: int, now_us: int) -> None:
    await connection.execute(
        """
        insert into refund (payment_id, refund_id, amount_micros, state, reason, told_micros, at, changed_at)
        values ($1, $2, $3, $4, $5, $6, $7, $7)
        on conflict (payment_id, refund_id) do update
        set state = excluded.state, reason = excluded.reason, changed_at = excluded.changed_at
        """,
        payment_id,
        refund.refund_id,
        refund.amount_micros,
        refund.state,
        refund.reason,
        told_micros,
        now_us,
    )


async def upsert_dispute(connection: Connection, payment_id: str, dispute: Dispute, now_us: int) -> None:
    await connection.execute(
        """
        insert into dispute (payment_id, dispute_id, amount_micros, held_micros, withdrawn, outcome, at, changed_at)
        values ($1, $2, $3, $4, $5, $6, $7, $7)
        on conflict (payment_id, dispute_id) do update
        set held_micros = excluded.held_micros, withdrawn = excluded.withdrawn, outcome = excluded.outcome,
          changed_at = excluded.changed_at
        """,
        payment_id,
        dispute.dispute_id,
        dispute.amount_micros,
        dispute.held_micros,
        dispute.withdrawn,
        dispute.outcome,
        now_us,
    )
