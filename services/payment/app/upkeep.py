"""What payment does by itself: telling balance of attempts, forgetting, counting."""

import asyncio

from services.payment.app.registrations import register_alone
from services.payment.balance_client import BalanceClient
from services.payment.metrics import EARLY_FACTS, INBOX_PROBLEMS, OPEN_QUEUE
from services.payment.settings import PaymentSettings
from services.payment.store.early import count_early_facts, delete_old_facts
from services.payment.store.inbox import count_problems
from services.payment.store.orders import (
    ATTEMPT_KIND,
    StoredOrder,
    load_unregistered_attempts,
    mark_attempts_registered,
)
from services.payment.store.rates import delete_old_quotes
from services.payment.store.status import count_open_items
from shared.clock import DAY_US, Clock, ClockTrust
from shared.db import Connection, Pool, transaction
from shared.each import do_each
from shared.log import get_logger
from shared.set_aside import count_set_aside

logger = get_logger(__name__)

BATCH = 100
# Counting and forgetting need no hurry.
SLOW_EVERY_SECONDS = 30.0


class Upkeep:
    def __init__(self, pool: Pool, clock: Clock, balance: BalanceClient, settings: PaymentSettings) -> None:
        self._pool = pool
        self._clock = clock
        self._balance = balance
        self._settings = settings
        self._trust = ClockTrust(clock)

    async def run_attempts(self) -> None:
        """Until cancelled, tell balance of each order that was attempted: an attempt keeps a deletion away."""
        while True:
            if not await self.register_attempts():
                await asyncio.sleep(self._settings.attempt_poll_seconds)

    async def register_attempts(self) -> int:
        """Tell balance of those that it does not know; return how many it took.

        Raises TransientFault when it takes none; an order that it fails over, and takes others, is set aside.
        """
        async with transaction(self._pool) as connection:
            orders = await load_unregistered_attempts(connection, BATCH, self._clock.now_us())
        items = {order.order_id: order for order in orders}
        return len(await do_each(self._pool, self._clock, ATTEMPT_KIND, items, self._register))

    async def _register(self, order: StoredOrder) -> None:
        await register_alone(self._balance, order)
        async with transaction(self._pool) as connection:
            await mark_attempts_registered(connection, [order.order_id])

    async def run_slow(self) -> None:
        """Until cancelled: forgetting what is over, gauges."""
        while True:
            await self.tidy()
            await asyncio.sleep(SLOW_EVERY_SECONDS)

    async def tidy(self) -> None:
        now_us = self._clock.now_us()
        async with transaction(self._pool) as connection:
            forgotten = await self._forget(connection, now_us)
            EARLY_FACTS.set(await count_early_facts(connection))
            OPEN_QUEUE.set(await count_open_items(connection))
            INBOX_PROBLEMS.set(await count_problems(connection))
            await count_set_aside(connection)
        if forgotten:
            logger.info("early_facts.forgotten", facts=forgotten)

    async def _forget(self, connection: Connection, now_us: int) -> int:
        """Forget what is long over; nothing while the clock is not trusted: a refund may wait for its payment."""
        if not self._trust.look():
            return 0
        await delete_old_quotes(connection, now_us - DAY_US)
        return await delete_old_facts(connection, now_us - self._settings.early_fact_days * DAY_US)
