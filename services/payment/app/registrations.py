"""Orders that balance lost with its database are registered there again: they keep deletions away."""

import asyncio

from services.payment.app.recovery import list_unknown_orders
from services.payment.balance_client import BalanceClient, OrderFault
from services.payment.store.orders import StoredOrder
from services.payment.store.restores import (
    load_orders_to_register,
    lock_order_to_register,
    mark_open_orders,
    mark_registered,
)
from shared.clock import Clock
from shared.consumer import Poll
from shared.db import Connection, Pool, transaction
from shared.each import do_each
from shared.errors import RecordError, Refusal
from shared.events.service import ServiceRestored, read_service_event
from shared.log import get_logger
from shared.settings import SharedSettings
from shared.topics import SERVICE_EVENTS

logger = get_logger(__name__)

IDLE_SECONDS = 5.0
BATCH = 100
# The kind of orders that balance fails over.
SET_ASIDE_KIND = "registration"


class Registrations:
    """`hear` notes in the consumer's transaction what is to be registered, `run` registers it."""

    def __init__(self, pool: Pool, clock: Clock, balance: BalanceClient, settings: SharedSettings) -> None:
        self._pool = pool
        self._settings = settings
        self._clock = clock
        self._balance = balance
        self._heard = asyncio.Event()

    async def hear(self, connection: Connection, poll: Poll) -> None:
        """Take from a poll that balance was set back."""
        for record in poll.records:
            if record.topic != SERVICE_EVENTS:
                continue
            try:
                event = read_service_event(record)
            except RecordError as error:
                poll.bury(record, error.reason, error.detail)
                continue
            if isinstance(event, ServiceRestored) and event.data.service == "balance":
                orders = await mark_open_orders(connection)
                logger.warning("registrations.again", incarnation=event.data.incarnation, orders=orders)
                poll.after_commit(self._heard.set)

    async def run(self) -> None:
        """Register again until cancelled. Raises TransientFault while balance is out of reach."""
        unknown = await list_unknown_orders(self._pool, self._balance, self._settings)
        if unknown:
            logger.error("registrations.unknown_orders", orders=unknown)
        while True:
            self._heard.clear()
            while await self.register_due():
                pass
            try:
                await asyncio.wait_for(self._heard.wait(), IDLE_SECONDS)
            except TimeoutError:
                continue

    async def register_due(self) -> int:
        """Register a batch of orders; return how many are. One that balance fails over is set aside."""
        async with transaction(self._pool) as connection:
            due = await load_orders_to_register(connection, SET_ASIDE_KIND, self._clock.now_us(), BATCH)
        items = {order_id: order_id for order_id in due}
        return sum(await do_each(self._pool, self._clock, SET_ASIDE_KIND, items, self._register))

    async def _register(self, order_id: str) -> bool:
        """Register an order; False if another process is at it.

        Its row stays locked until balance has answered: a payment that ends it is published after its registration.
        """
        async with transaction(self._pool) as connection:
            order = await lock_order_to_register(connection, order_id)
            if order is None:
                return False
            try:
                await register_alone(self._balance, order)
            except Refusal as refusal:
                # Of this order balance knows something else. The others do not wait for it.
                logger.warning("registration.refused", order_id=order.order_id, reason=refusal.detail)
            await mark_registered(connection, order.order_id)
        return True


async def register_alone(balance: BalanceClient, order: StoredOrder) -> None:
    """Register an order among others. Raises RecordError where balance fails over this one, TransientFault, Refusal."""
    try:
        await balance.register(order)
    except OrderFault as fault:
        raise RecordError("balance_fails", str(fault)) from fault
