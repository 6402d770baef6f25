"""Orders that balance lost with its database are registered there again: they keep deletions away."""

import asyncio

from services.payment.app.recovery import list_unknown_orders
from services.payment.balance_client import BalanceClient, OrderFault
from services.payment.store.restores import lock_order_to_register, mark_open_orders, mark_registered
from shared.clock import Clock
from shared.consumer import Poll
from shared.db import Connection, Pool, transaction
from shared.errors import RecordError, Refusal
from shared.events.service import ServiceRestored, read_service_event
from shared.log import get_logger
from shared.set_aside import describe_error, release, set_aside
from shared.settings import SharedSettings
from shared.topics import SERVICE_EVENTS

logger = get_logger(__name__)

IDLE_SECONDS = 5.0
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
            while await self.register_next():
                pass
            try:
                await asyncio.wait_for(self._heard.wait(), IDLE_SECONDS)
            except TimeoutError:
                continue

    async def register_next(self) -> bool:
        """Register one order; whether there was one.

        Its row stays locked until balance has answered: a payment that ends it is published after its registration.
        """
        async with transaction(self._pool) as connection:
            now_us = self._clock.now_us()
            order = await lock_order_to_register(connection, SET_ASIDE_KIND, now_us)
            if order is None:
                return False
            try:
                await self._balance.register(order)
            except OrderFault as fault:
                await set_aside(connection, SET_ASIDE_KIND, order.order_id, describe_error(fault), now_us)
                return True
            except Refusal as refusal:
                # Of this order balance knows something else. The others do not wait for it.
                logger.warning("registration.refused", order_id=order.order_id, reason=refusal.detail)
            await mark_registered(connection, order.order_id)
            await release(connection, SET_ASIDE_KIND, [order.order_id])
        return True
