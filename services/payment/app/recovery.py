"""What payment does about a database that was set back (docs/adr/0013).

Payments that were told since the backup are adopted, also of orders that it does not know, so that the money is not
taken for unknown. Everything else comes again from the providers, which are swept from where the backup was: facts have
the same ids as before, so nothing is credited twice. Nobody knows which consents were withdrawn since: no saved card is
charged.
"""

from collections.abc import Mapping
from typing import Any

from services.payment.app.facts import Cause, FactApplier
from services.payment.balance_client import BalanceClient
from services.payment.events import suspension_message
from services.payment.rules.facts import Money, Paid
from services.payment.store.payments import Holder, NewPayment, insert_payments
from services.payment.store.restores import find_unknown_orders, find_unknown_payments, suspend_agreements
from shared.clock import parse_instant
from shared.db import Connection, Pool, transaction
from shared.events.payments import is_payment_event
from shared.log import get_logger
from shared.outbox import append_messages
from shared.own_records import read_own_events
from shared.restore_records import Lost, Restore, insert_lost, load_restores
from shared.restores import Offsets, Recovery
from shared.topic_reader import TopicReader
from shared.topics import PAYMENT_EVENTS

logger = get_logger(__name__)

Event = Mapping[str, Any]


class PaymentRecovery(Recovery):
    def __init__(self, reader: TopicReader, applier: FactApplier, shards: int) -> None:
        self._reader = reader
        self._applier = applier
        self._shards = shards

    async def adopt(self, connection: Connection, restore: Restore, starts: Offsets) -> None:
        """Adopt payments of lost orders, list what was lost, and suspend automatic top-ups."""
        events: dict[str, Event] = {}
        async for event in read_own_events(self._reader, "payment", PAYMENT_EVENTS, starts[PAYMENT_EVENTS]):
            if is_payment_event(event):
                events.setdefault(event["id"], event)
        captured = [event for event in events.values() if event["type"] == "payment.captured"]
        await self._adopt_payments(connection, captured, restore.restored_at_us)
        lost = [item for event in events.values() if (item := _lost_refund(event)) is not None]
        named = {event["data"].get("order_id"): event for event in events.values()}
        unknown = await find_unknown_orders(connection, [name for name in named if name is not None])
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
        logger.error("restore.lost", items=len(lost), payments=len(captured), suspended=len(suspended))

    async def _adopt_payments(self, connection: Connection, captured: list[Event], now_us: int) -> None:
        """Apply payments of known orders by the rules of every day, and keep those of lost ones as they were told.

        What is told again of the first has the id that it had. Balance's word that it was credited comes again as well.
        """
        orders = await find_unknown_orders(connection, [event["data"]["order_id"] or "" for event in captured])
        payments = await find_unknown_payments(connection, [event["data"]["payment_id"] for event in captured])
        fresh = [event for event in captured if event["data"]["payment_id"] in payments]
        lost = [event for event in fresh if (event["data"]["order_id"] or "") in orders]
        await insert_payments(connection, [_payment(event) for event in lost], now_us)
        for event in fresh:
            if event["data"]["order_id"] and event["data"]["order_id"] not in orders:
                cause = Cause(event["data"]["provider"], "restore")
                await self._applier.apply_facts(connection, [_paid(event)], cause)


def _paid(event: Event) -> Paid:
    data = event["data"]
    money = Money(data["paid_micros"], data["paid_currency"])
    return Paid(
        data["order_id"] or "", data["payment_id"], money, parse_instant(event["time"]), None, data["payment_id"]
    )


def _payment(event: Event) -> NewPayment:
    data = event["data"]
    holder = Holder(data["region"], data["tenant_id"], data["currency"])
    return NewPayment(_paid(event), data["provider"], None, holder, data["amount_micros"])


def _lost_refund(event: Event) -> Lost | None:
    """A refund that was told: who asked for it, and why, is lost; an operator should not ask again."""
    return _lost("refund", event["data"]["refund_id"], event) if event["type"] == "payment.refunded" else None


def _lost(kind: str, item: str, event: Event) -> Lost:
    data = event["data"]
    names = ("provider", "payment_id", "order_id", "refund_id", "amount_micros", "paid_micros", "paid_currency")
    detail = {"type": event["type"], **{name: data[name] for name in names if name in data}}
    return Lost(kind, item, data["region"], data["tenant_id"], parse_instant(event["time"]), detail)


async def list_unknown_orders(pool: Pool, balance: BalanceClient) -> int:
    """After a restore, list the orders that are pending at balance and not known here; answer how many.

    Raises TransientFault while balance is out of reach.
    """
    async with transaction(pool) as connection:
        restore = next(iter(await load_restores(connection)), None)
    if restore is None or restore.confirmed_at_us is not None:
        return 0
    found = 0
    async for page in balance.list_pending_orders():
        async with transaction(pool) as connection:
            unknown = await find_unknown_orders(connection, [order.order_id for order in page])
            lost = [
                Lost(
                    "order",
                    order.order_id,
                    order.region,
                    order.tenant_id,
                    order.registered_at_us,
                    {"provider": order.provider, "credit_micros": order.credit_micros, "attempted": order.attempted},
                )
                for order in page
                if order.order_id in unknown
            ]
            await insert_lost(connection, restore.incarnation, lost)
            found += len(lost)
    return found
