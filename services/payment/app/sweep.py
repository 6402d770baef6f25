"""The sweep of a provider's events: what its webhooks should have brought, through the same inbox."""

import asyncio
from collections.abc import Callable

from services.payment.app.inbox import Inbox
from services.payment.metrics import SWEPT
from services.payment.providers import Notice, Provider
from services.payment.store.asking import load_swept_through, save_swept_through
from shared.clock import DAY_US, MINUTE_US, Clock
from shared.db import Pool, transaction

# Events are listed a little late, and in no strict order.
OVERLAP_US = 15 * MINUTE_US
FIRST_US = 3 * DAY_US
EVERY_SECONDS = 120.0


class EventSweep:
    """Asks one provider for its events since the last sweep. `read` makes a notice of an event's body."""

    def __init__(
        self, pool: Pool, clock: Clock, provider: Provider, inbox: Inbox, read: Callable[[bytes], Notice]
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._provider = provider
        self._inbox = inbox
        self._read = read

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await self.sweep()
            await asyncio.sleep(EVERY_SECONDS)

    async def sweep(self) -> int:
        """Take every event that is new to us; answer how many had an effect.

        Raises TransientFault when the provider is out of reach; what was taken until then is kept.
        """
        began_us = self._clock.now_us()
        async with transaction(self._pool) as connection:
            through_us = await load_swept_through(connection, self._provider.name)
        since_us = began_us - FIRST_US if through_us is None else through_us - OVERLAP_US
        applied = 0
        async for body in self._provider.list_events(since_us):
            # The inbox keeps what can't be read or applied, and raises for none of them.
            received = await self._inbox.receive(self._provider.name, self._read(body), body)
            outcome = "repeated" if received.repeated else received.outcome
            SWEPT.labels(self._provider.name, outcome).inc()
            applied += outcome in ("applied", "mismatched", "queued")
        async with transaction(self._pool) as connection:
            await save_swept_through(connection, self._provider.name, began_us)
        return applied
