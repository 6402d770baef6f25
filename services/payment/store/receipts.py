"""Receipts: issued in order, and what they say."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from services.payment.providers import ProviderName
from shared.db import Connection

# What the loop that issues receipts calls a payment that it has to leave out (shared.set_aside).
RECEIPT_KIND: Final = "receipt"


@dataclass(frozen=True, slots=True)
class Unreceipted:
    """A credited payment without a receipt."""

    payment_id: str
    region: str


@dataclass(frozen=True, slots=True)
class NewReceipt:
    """A receipt to issue; `ordinal` is its place among those of the region and year."""

    number: str
    payment_id: str
    region: str
    year: int
    ordinal: int


async def lock_receipts(connection: Connection) -> bool:
    """Whether this transaction alone issues receipts now: two could not number without a gap."""
    return bool(await connection.fetchval("select pg_try_advisory_xact_lock(hashtext('tollkeeper.receipts'))"))


async def load_unreceipted(connection: Connection, limit: int, now_us: int) -> list[Unreceipted]:
    """The oldest ones first; without those that are set aside now."""
    rows = await connection.fetch(
        """
        select payment_id, region from payment where credited_at is not null and not receipt_issued
          and payment_id not in (select item from set_aside s where kind = $2 and still_held(s, $3))
        order by credited_at, payment_id limit $1
        """,
        limit,
        RECEIPT_KIND,
        now_us,
    )
    return [Unreceipted(*row) for row in rows]


async def load_last_ordinal(connection: Connection, region: str, year: int) -> int:
    return int(
        await connection.fetchval(
            "select coalesce(max(ordinal), 0) from receipt where region = $1 and year = $2", region, year
        )
    )


async def insert_receipts(
    connection: Connection, receipts: Sequence[NewReceipt], seller: Sequence[str], issued_at_us: int
) -> None:
    await connection.execute(
        """
        with marked as (update payment set receipt_issued = true where payment_id = any($2::text[]))
        insert into receipt (number, payment_id, region, year, ordinal, seller, issued_at)
        select r.*, $6, $7 from unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::int[]) r
        """,
        [receipt.number for receipt in receipts],
        [receipt.payment_id for receipt in receipts],
        [receipt.region for receipt in receipts],
        [receipt.year for receipt in receipts],
        [receipt.ordinal for receipt in receipts],
        list(seller),
        issued_at_us,
    )


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """A receipt with its payment and order; order fields are None where there is no order."""

    number: str
    issued_at_us: int
    seller: tuple[str, ...]
    payment_id: str
    order_id: str | None
    region: str
    tenant_id: str
    provider: ProviderName
    paid_micros: int
    paid_currency: str
    account_currency: str
    credit_micros: int
    paid_at_us: int
    reference: str
    payer_name: str
    payer_email: str
    rate_e12: int | None
    rate_date: date | None
    is_as_agreed: bool


async def load_receipt(connection: Connection, number: str) -> ReceiptRow | None:
    row = await connection.fetchrow(
        """
        select r.number, r.issued_at, r.seller, p.payment_id, p.order_id, p.region, p.tenant_id, p.provider,
               p.paid_micros, p.paid_currency, p.account_currency, p.credit_micros, p.paid_at, p.reference,
               p.payer_name, p.payer_email, o.rate_e12, o.rate_date,
               coalesce((p.paid_micros, p.paid_currency, p.credit_micros)
                 = (o.amount_micros, o.currency, o.credit_micros), false)
        from receipt r join payment p using (payment_id) left join payment_order o on o.order_id = p.order_id
        where r.number = $1
        """,
        number,
    )
    if row is None:
        return None
    head, seller, *rest = (row[0], row[1]), tuple(row[2]), *row[3:]
    return ReceiptRow(*head, seller, *rest)
