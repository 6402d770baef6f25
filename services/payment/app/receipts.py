"""Issuing receipts: one per credited payment, numbered without a gap in each region and year."""

import asyncio

from services.payment.rules.receipts import Receipt, Reversal, receipt_money, receipt_number
from services.payment.rules.reversals import Payment
from services.payment.store.payments import load_payment, load_reversal_times
from services.payment.store.receipts import (
    RECEIPT_KIND,
    NewReceipt,
    ReceiptRow,
    Unreceipted,
    insert_receipts,
    load_last_ordinal,
    load_receipt,
    load_unreceipted,
    lock_receipts,
)
from shared.clock import Clock, from_us
from shared.db import Pool, is_transient, past_races, transaction
from shared.each import do_each
from shared.errors import Refusal
from shared.set_aside import release

BATCH = 1000
POLL_SECONDS = 2.0
DISPLAY_NAMES = {"stripe": "Stripe", "vnpay": "VNPay"}


class Receipts:
    def __init__(self, pool: Pool, clock: Clock, seller: tuple[str, ...]) -> None:
        self._pool = pool
        self._clock = clock
        self._seller = seller

    async def run(self) -> None:
        """Issue until cancelled."""
        while True:
            if not await self.issue():
                await asyncio.sleep(POLL_SECONDS)

    async def issue(self) -> int:
        """Issue receipts for payments that have none; answer for how many. A number is taken only with its receipt.

        One that can't be written is set aside, and the others are issued one by one.
        """
        try:
            return await past_races(self._issue_waiting)
        except Exception as error:
            if is_transient(error):
                raise
        async with transaction(self._pool) as connection:
            waiting = await load_unreceipted(connection, BATCH, self._clock.now_us())
        alone = {item.payment_id: item for item in waiting}
        await do_each(self._pool, self._clock, RECEIPT_KIND, alone, self._issue_waiting)
        return len(waiting)

    async def _issue_waiting(self, only: Unreceipted | None = None) -> int:
        async with transaction(self._pool) as connection:
            if not await lock_receipts(connection):
                return 0
            now_us = self._clock.now_us()
            waiting = await load_unreceipted(connection, BATCH, now_us)
            if only is not None:
                waiting = [item for item in waiting if item == only]
            year = from_us(now_us).year
            last: dict[str, int] = {}
            issued: list[NewReceipt] = []
            for item in waiting:
                if item.region not in last:
                    last[item.region] = await load_last_ordinal(connection, item.region, year)
                ordinal = last[item.region] = last[item.region] + 1
                number = receipt_number(item.region, now_us, ordinal)
                issued.append(NewReceipt(number, item.payment_id, item.region, year, ordinal))
            await insert_receipts(connection, issued, self._seller, now_us)
            await release(connection, RECEIPT_KIND, [item.payment_id for item in waiting])
        return len(waiting)

    async def load(self, number: str) -> Receipt:
        """A receipt with what was reversed since. Raises Refusal for none."""
        async with transaction(self._pool) as connection:
            row = await load_receipt(connection, number)
            if row is None:
                raise Refusal("receipt-not-found", f"there is no receipt {number[:40]}", status=404)
            stored = await load_payment(connection, row.payment_id)
            assert stored is not None, "a receipt's payment is there"
            times = await load_reversal_times(connection, row.payment_id)
        return _write(row, stored.payment, times)


def _write(row: ReceiptRow, payment: Payment, times: dict[str, int]) -> Receipt:
    return Receipt(
        number=row.number,
        issued_at_us=row.issued_at_us,
        seller=row.seller,
        payer_name=row.payer_name,
        payer_email=row.payer_email,
        region=row.region,
        tenant_id=row.tenant_id,
        order_id=row.order_id or "",
        provider=DISPLAY_NAMES[row.provider],
        reference=row.reference,
        paid_at_us=row.paid_at_us,
        paid=receipt_money(row.paid_micros, row.paid_currency),
        credit=receipt_money(row.credit_micros, row.account_currency),
        rate_e12=row.rate_e12 if row.is_as_agreed else None,
        rate_date=row.rate_date.isoformat() if row.is_as_agreed and row.rate_date is not None else None,
        reversals=_reversals(payment, times),
    )


def _reversals(payment: Payment, times: dict[str, int]) -> tuple[Reversal, ...]:
    """What went back: refunds that did not fail, and disputes that took the money."""
    currency = payment.paid.currency
    refunds = [
        Reversal("Refunded", times[item.refund_id], receipt_money(item.amount_micros, currency))
        for item in payment.refunds
        if item.gone_micros
    ]
    disputes = [
        Reversal("Disputed", times[item.dispute_id], receipt_money(item.amount_micros, currency))
        for item in payment.disputes
        if item.gone_micros
    ]
    return tuple(sorted((*refunds, *disputes), key=lambda item: item.at_us))
