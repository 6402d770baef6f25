"""What payment does by itself: telling balance of attempts, sending refunds again, forgetting, counting."""

import asyncio

from services.payment.app.refunds import Refunds
from services.payment.balance_client import BalanceClient
from services.payment.metrics import EARLY_FACTS, OPEN_QUEUE
from services.payment.settings import PaymentSettings
from services.payment.store.early import count_early_facts, delete_old_facts
from services.payment.store.orders import load_unregistered_attempts, mark_attempts_registered
from services.payment.store.rates import delete_old_quotes
from services.payment.store.status import count_open_items
from shared.clock import DAY_US, Clock
from shared.db import Pool, transaction
from shared.errors import Refusal
from shared.log import get_logger

logger = get_logger(__name__)

BATCH = 100
# Counting and forgetting need no hurry.
SLOW_EVERY_SECONDS = 30.0


class Upkeep:
    def __init__(
        self, pool: Pool, clock: Clock, balance: BalanceClient, refunds: Refunds, settings: PaymentSettings
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._balance = balance
        self._refunds = refunds
        self._settings = settings

    async def run_attempts(self) -> None:
        """Until cancelled, tell balance of each order that was attempted: an attempt keeps a deletion away."""
        while True:
            if not await self.register_attempts():
                await asyncio.sleep(self._settings.attempt_poll_seconds)

    async def register_attempts(self) -> int:
        async with transaction(self._pool) as connection:
            orders = await load_unregistered_attempts(connection, BATCH)
        told = []
        for order in orders:
            try:
                await self._balance.register(order)
            except Refusal as refusal:
                logger.warning("attempt.not_registered", order_id=order.order_id, reason=refusal.detail)
            else:
                told.append(order.order_id)
        async with transaction(self._pool) as connection:
            await mark_attempts_registered(connection, told)
        return len(told)

    async def run_slow(self) -> None:
        """Until cancelled: open refunds, old facts and quotes, gauges."""
        while True:
            await self.tidy()
            await self._refunds.resume()
            await asyncio.sleep(SLOW_EVERY_SECONDS)

    async def tidy(self) -> None:
        now_us = self._clock.now_us()
        async with transaction(self._pool) as connection:
            forgotten = await delete_old_facts(connection, now_us - self._settings.early_fact_days * DAY_US)
            await delete_old_quotes(connection, now_us - DAY_US)
            EARLY_FACTS.set(await count_early_facts(connection))
            OPEN_QUEUE.set(await count_open_items(connection))
        if forgotten:
            logger.info("early_facts.forgotten", facts=forgotten)
