"""Settling the queue: an operator decides, with a reason, what becomes of money that matched nothing."""

from dataclasses import dataclass
from typing import Literal

from services.payment.app.facts import Cause, FactApplier
from services.payment.app.rates import Rates
from services.payment.app.refunds import Refunds, RefundWish
from services.payment.rules.orders import end_mismatch
from services.payment.store.orders import StoredOrder, lock_order
from services.payment.store.payments import Holder, StoredPayment, load_payment, lock_payment_ids
from services.payment.store.queue import QueueItem, has_open_items, load_item, lock_item, settle_item
from shared.db import Connection, transaction
from shared.errors import Refusal

Action = Literal["credit", "refund", "dismiss"]
# Items whose payment nobody was credited for; the others need a look, and a dismissal.
UNCREDITED = ("mismatch", "duplicate", "unknown-order", "refund-failed")


@dataclass(frozen=True, slots=True)
class SettlementWish:
    """`amount_micros` of the account's currency for a credit; region and tenant only where no order says whose."""

    action: Action
    reason: str
    actor: str
    amount_micros: int | None = None
    region: str | None = None
    tenant_id: str | None = None


class Settlement:
    def __init__(self, rates: Rates, applier: FactApplier, refunds: Refunds) -> None:
        self._rates = rates
        self._pool = rates.pool
        self._clock = rates.clock
        self._applier = applier
        self._refunds = refunds

    async def settle(self, item_id: str, wish: SettlementWish) -> QueueItem:
        """Settle an item; the same settlement again answers the same.

        Raises Refusal, and TransientFault where a restore may have lost that the money went back, and nobody can tell.
        """
        if wish.action == "credit":
            await self._ask_what_went_back(item_id, wish)
        async with transaction(self._pool) as connection:
            item = await load_item(connection, item_id)
            if item is None:
                raise Refusal("queue-item-not-found", f"there is no queue item {item_id}", status=404)
            await lock_payment_ids(connection, [item.payment_id] if item.payment_id else [])
            item = await lock_item(connection, item_id)
            assert item is not None, "items are never deleted"
            if item.resolution is not None:
                return _same_or_refuse(item, wish)
            if wish.action == "credit":
                await self._credit(connection, item, wish)
            elif wish.action == "dismiss":
                await self._dismiss(connection, item, wish)
        if wish.action == "refund":
            await self._refund(item, wish)
        async with transaction(self._pool) as connection:
            settled = await load_item(connection, item_id)
        assert settled is not None, "items are never deleted"
        return settled

    async def _ask_what_went_back(self, item_id: str, wish: SettlementWish) -> None:
        """A refund of what nobody was credited for is told to nobody: after a restore its provider alone knows it."""
        async with transaction(self._pool) as connection:
            item = await load_item(connection, item_id)
        if item is not None and item.resolution is None and item.kind in UNCREDITED and item.payment_id is not None:
            await self._refunds.adopt_forgotten(_refund_wish(item, item.payment_id, wish))

    async def _refund(self, item: QueueItem, wish: SettlementWish) -> None:
        await self._refunds.refund(_refund_wish(item, _require_uncredited(item), wish), item.item_id)

    async def _credit(self, connection: Connection, item: QueueItem, wish: SettlementWish) -> None:
        payment_id = _require_uncredited(item)
        if wish.amount_micros is None:
            raise Refusal("amount-needed", "give amount_micros, of the account's currency, to credit", status=422)
        stored = await load_payment(connection, payment_id)
        assert stored is not None, "an item with a payment has its row"
        _refuse_unless_untouched(stored)
        order = None if stored.order_id is None else await lock_order(connection, stored.order_id)
        holder = self._find_holder(order, wish)
        cause = Cause(stored.provider, f"settlement by {wish.actor}: {wish.reason}"[:500])
        await self._applier.credit_kept(connection, stored, order, holder, wish.amount_micros, cause)
        now_us = self._clock.now_us()
        await settle_item(connection, item.item_id, "credit", wish.amount_micros, wish.actor, wish.reason, now_us)

    async def _dismiss(self, connection: Connection, item: QueueItem, wish: SettlementWish) -> None:
        now_us = self._clock.now_us()
        await settle_item(connection, item.item_id, "dismiss", None, wish.actor, wish.reason, now_us)
        order = None if item.order_id is None else await lock_order(connection, item.order_id)
        if order is None or item.kind not in UNCREDITED or await has_open_items(connection, order.order_id):
            return
        cause = Cause(order.provider, f"dismissal by {wish.actor}: {wish.reason}"[:500])
        await self._applier.change_order(connection, order, end_mismatch(order.order, "failed", "dismissed"), cause)

    def _find_holder(self, order: StoredOrder | None, wish: SettlementWish) -> Holder:
        """Whose credit it becomes: the order's account, or the one that the operator names."""
        named = (wish.region, wish.tenant_id)
        if order is not None:
            if named not in ((None, None), (order.region, order.tenant_id)):
                raise Refusal("account-differs", "the payment belongs to its order's account", status=422)
            return Holder(order.region, order.tenant_id, order.account_currency)
        if wish.region is None or wish.tenant_id is None:
            raise Refusal("account-needed", "no order says whose payment it is: give region and tenant_id", status=422)
        return Holder(wish.region, wish.tenant_id, self._rates.account_currency(wish.region))


def _refund_wish(item: QueueItem, payment_id: str, wish: SettlementWish) -> RefundWish:
    return RefundWish(payment_id, None, wish.reason, wish.actor, f"queue/{item.item_id}")


def _require_uncredited(item: QueueItem) -> str:
    if item.kind not in UNCREDITED or item.payment_id is None:
        raise Refusal("nothing-to-settle", f"an item of the kind {item.kind} can only be dismissed", status=422)
    return item.payment_id


def _refuse_unless_untouched(stored: StoredPayment) -> None:
    payment = stored.payment
    if payment.credit_micros is not None:
        raise Refusal("already-credited", f"{payment.payment_id} was credited already; dismiss the item")
    if payment.gone_micros or any(dispute.outcome == "open" for dispute in payment.disputes):
        raise Refusal("money-moved", "some of the payment went back or is disputed: refund the rest, or dismiss")


def _same_or_refuse(item: QueueItem, wish: SettlementWish) -> QueueItem:
    same_amount = wish.action != "credit" or item.credited_micros == wish.amount_micros
    if item.resolution == wish.action and same_amount and (item.actor, item.reason) == (wish.actor, wish.reason):
        return item
    raise Refusal("already-settled", f"the item was settled: {item.resolution}", resolution=item.resolution)
