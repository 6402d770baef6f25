"""What payment does about a database that was set back (docs/adr/0013).

All that was told since the backup is adopted, in the order in which it was told and before anything else is done: a
payment also where its order was lost, what operators credited, every refund, dispute and failure. So whatever a
provider or a customer says next meets the rows that it would have met. None of it is told again. The rest comes again
from the providers, which are swept from where the backup was. Nobody knows which consents were withdrawn since: no
saved card is charged.
"""

from collections.abc import Sequence

from services.payment.app.facts import Cause, FactApplier
from services.payment.app.lost_charges import LostCharge, make_again, number_charges
from services.payment.balance_client import BalanceClient, PendingOrder
from services.payment.events import suspension_message
from services.payment.providers import ProviderName
from services.payment.rules.facts import Money
from services.payment.rules.told import failure_of, paid_of, reversal_of
from services.payment.store.orders import lock_order
from services.payment.store.payments import Holder, NewPayment, insert_payments, load_payment, lock_payment_ids
from services.payment.store.queue import settle_credited
from services.payment.store.restores import find_unknown_orders, find_unknown_payments, suspend_agreements
from shared.clock import Clock
from shared.db import Connection, Pool, is_transient, transaction
from shared.events.payments import (
    AutoTopUpSuspended,
    PaymentCaptured,
    PaymentEvent,
    PaymentFailed,
    PaymentRefunded,
    read_payment_event,
)
from shared.log import get_logger
from shared.outbox import append_messages
from shared.own_records import read_own_events
from shared.restore_records import Lost, Restore, insert_lost, load_restores
from shared.restores import Offsets, Recovery
from shared.settings import SharedSettings
from shared.topic_reader import TopicReader
from shared.topics import PAYMENT_EVENTS

logger = get_logger(__name__)

CAUSE = "restore"


class PaymentRecovery(Recovery):
    def __init__(self, reader: TopicReader, clock: Clock, shards: int) -> None:
        self._reader = reader
        self._shards = shards
        self._applier = FactApplier(clock, shards, tell=False)

    async def adopt(self, connection: Connection, restore: Restore, starts: Offsets) -> None:
        """Adopt what was told, list what was lost, and suspend automatic top-ups."""
        told = await self._read_told(starts)
        unknown = await find_unknown_orders(connection, [name for event in told if (name := _order_of(event))])
        unknown -= await self._make_charges_again(connection, told, unknown)
        await self._adopt_payments(connection, told, unknown, restore.restored_at_us)
        lost = [_lost("event", event.id, event) for event in told if not await self._adopt(connection, event)]
        # Who asked for a refund, and why, is lost; an operator should not ask again.
        lost += [_lost("refund", event.data.refund_id, event) for event in told if isinstance(event, PaymentRefunded)]
        named = {_order_of(event): event for event in told}
        lost += [_lost("order", order_id, named[order_id]) for order_id in sorted(unknown)]
        await insert_lost(connection, restore.incarnation, lost)
        suspended = await suspend_agreements(connection, restore.incarnation, restore.restored_at_us)
        await append_messages(
            connection,
            [
                suspension_message(*agreement, "restored", None, restore.restored_at_us, self._shards)
                for agreement in suspended
            ],
            restore.restored_at_us,
        )
        logger.error("restore.lost", items=len(lost), told=len(told), suspended=len(suspended))

    async def _read_told(self, starts: Offsets) -> list[PaymentEvent]:
        """What this service told from where the backup was, each fact once, an account's in their order."""
        told: dict[str, PaymentEvent] = {}
        async for document in read_own_events(self._reader, "payment", PAYMENT_EVENTS, starts[PAYMENT_EVENTS]):
            event = read_payment_event(document)
            if event is not None:
                told.setdefault(event.id, event)
        return list(told.values())

    async def _make_charges_again(
        self, connection: Connection, told: Sequence[PaymentEvent], unknown: set[str]
    ) -> set[str]:
        """Make the orders of lost charges of saved cards again that were paid; answer them."""
        orders: dict[tuple[str, str], set[str]] = {}
        for event in told:
            if (order_id := _order_of(event)) in unknown and order_id is not None:
                orders.setdefault((event.data.region, event.data.tenant_id), set()).add(order_id)
        numbers = await number_charges(connection, orders)
        charges = [
            LostCharge(data.region, data.tenant_id, numbers[data.order_id], paid_of(event).money, event.time)
            for event in told
            if isinstance(event, PaymentCaptured) and (data := event.data).order_id in numbers
        ]
        return set(await make_again(connection, charges, "paid", self._shards))

    async def _adopt_payments(
        self, connection: Connection, told: Sequence[PaymentEvent], unknown_orders: set[str], now_us: int
    ) -> None:
        """Keep payments as they were told whose orders are not known. Balance's word on their credit comes again."""
        captured = [event for event in told if isinstance(event, PaymentCaptured)]
        payments = await find_unknown_payments(connection, [event.data.payment_id for event in captured])
        fresh = [event for event in captured if event.data.payment_id in payments]
        lost = [_payment(event) for event in fresh if event.data.order_id in {None, *unknown_orders}]
        await insert_payments(connection, lost, now_us)

    async def _adopt(self, connection: Connection, event: PaymentEvent) -> bool:
        """Apply what was told by the rules of every day; whether that could be done. Nothing keeps payment closed."""
        try:
            async with connection.transaction():
                await self._apply(connection, event)
        except Exception as error:
            if is_transient(error):
                raise
            logger.exception("restore.not_adopted", event_id=event.id)
            return False
        return True

    async def _apply(self, connection: Connection, event: PaymentEvent) -> None:
        if isinstance(event, AutoTopUpSuspended):
            return
        cause = Cause(_provider(event), CAUSE)
        if isinstance(event, PaymentFailed):
            # Of an order that was lost there is nothing to fail.
            if await lock_order(connection, event.data.order_id) is not None:
                await self._applier.apply_facts(connection, [failure_of(event)], cause)
            return
        await lock_payment_ids(connection, [event.data.payment_id])
        stored = await load_payment(connection, event.data.payment_id)
        if isinstance(event, PaymentCaptured):
            if stored is None:
                await self._applier.apply_facts(connection, [paid_of(event)], cause)
            await self._adopt_credit(connection, event, cause)
        elif stored is not None:
            await self._applier.apply_facts(connection, [reversal_of(event, stored.payment)], cause)

    async def _adopt_credit(self, connection: Connection, event: PaymentCaptured, cause: Cause) -> None:
        """What was told as credited is credited here too, also where an operator had to say so."""
        stored = await load_payment(connection, event.data.payment_id)
        if stored is None or stored.payment.credit_micros is not None:
            return
        order = None if stored.order_id is None else await lock_order(connection, stored.order_id)
        micros = event.data.amount_micros
        await self._applier.credit_kept(connection, stored, order, _holder(event), micros, cause)
        await settle_credited(connection, event.data.payment_id, micros, "told before the restore", event.time)


def _order_of(event: PaymentEvent) -> str | None:
    return None if isinstance(event, AutoTopUpSuspended) else event.data.order_id


def _provider(event: PaymentEvent) -> ProviderName:
    return "stripe" if isinstance(event, AutoTopUpSuspended) or event.data.provider != "vnpay" else "vnpay"


def _holder(event: PaymentCaptured) -> Holder:
    return Holder(event.data.region, event.data.tenant_id, event.data.currency)


def _payment(event: PaymentCaptured) -> NewPayment:
    return NewPayment(paid_of(event), _provider(event), None, _holder(event), event.data.amount_micros)


def _lost(kind: str, item: str, event: PaymentEvent) -> Lost:
    data = event.data.model_dump()
    money = ("amount_micros", "paid_micros", "paid_currency")
    names = ("provider", "payment_id", "order_id", "refund_id", "reason", *money)
    detail = {"type": event.type, **{name: data[name] for name in names if name in data}}
    return Lost(kind, item, event.data.region, event.data.tenant_id, event.time, detail)


async def list_unknown_orders(pool: Pool, balance: BalanceClient, settings: SharedSettings) -> int:
    """After a restore, list the orders that are pending at balance and not known here; answer how many.

    Charges of saved cards are made again: what became of them is asked. Raises TransientFault while balance is out of
    reach.
    """
    async with transaction(pool) as connection:
        restore = next(iter(await load_restores(connection)), None)
    if restore is None or restore.confirmed_at_us is not None:
        return 0
    found = 0
    async for page in balance.list_pending_orders():
        async with transaction(pool) as connection:
            unknown = await find_unknown_orders(connection, [order.order_id for order in page])
            unknown -= await _make_open_charges_again(
                connection, [order for order in page if order.order_id in unknown], settings
            )
            lost = [_lost_order(order) for order in page if order.order_id in unknown]
            await insert_lost(connection, restore.incarnation, lost)
            found += len(lost)
    return found


async def _make_open_charges_again(
    connection: Connection, orders: Sequence[PendingOrder], settings: SharedSettings
) -> set[str]:
    """Keep lost charges as attempts of open outcome, whose loop asks the provider; answer their orders."""
    charged = [
        order for order in orders if order.attempted and order.provider == "stripe" and order.region in settings.regions
    ]
    by_account: dict[tuple[str, str], set[str]] = {}
    for order in charged:
        by_account.setdefault((order.region, order.tenant_id), set()).add(order.order_id)
    numbers = await number_charges(connection, by_account)
    charges = [
        LostCharge(
            order.region,
            order.tenant_id,
            numbers[order.order_id],
            Money(order.credit_micros, settings.regions[order.region].currency),
            order.registered_at_us,
        )
        for order in charged
        if order.order_id in numbers
    ]
    return set(await make_again(connection, charges, "open", settings.shards))


def _lost_order(order: PendingOrder) -> Lost:
    detail = {"provider": order.provider, "credit_micros": order.credit_micros, "attempted": order.attempted}
    return Lost("order", order.order_id, order.region, order.tenant_id, order.registered_at_us, detail)
