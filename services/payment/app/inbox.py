"""Callbacks of providers: the event as received and its effect, in one transaction."""

from collections.abc import Container
from dataclasses import dataclass

from services.payment.app.facts import Cause, FactApplier, payment_ids_of
from services.payment.metrics import WEBHOOKS
from services.payment.providers import Notice, ProviderName
from services.payment.rules.decision import Outcome
from services.payment.rules.facts import OrderFact, Paid
from services.payment.store.inbox import finish_event, lock_event
from services.payment.store.orders import load_order
from shared.clock import SECOND_US, Clock
from shared.db import Connection, Pool, transaction


@dataclass(frozen=True, slots=True)
class Received:
    """What became of a callback. `completed` False: it was kept but has no effect yet, so it must be sent again.

    `repeated`: this very event had been completed before, with this outcome.
    """

    outcome: Outcome
    completed: bool = True
    repeated: bool = False


class Inbox:
    """Takes callbacks that are verified and read."""

    def __init__(
        self, pool: Pool, clock: Clock, applier: FactApplier, regions: Container[str], unknown_order_seconds: int
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._applier = applier
        self._regions = regions
        self._unknown_order_us = unknown_order_seconds * SECOND_US

    async def receive(self, provider: ProviderName, notice: Notice, body: bytes) -> Received:
        """Apply a callback once, however often and however many at a time it comes."""
        async with transaction(self._pool) as connection:
            received = await self._receive(connection, provider, notice, body)
        WEBHOOKS.labels(provider, "repeated" if received.repeated else received.outcome).inc()
        return received

    async def _receive(self, connection: Connection, provider: ProviderName, notice: Notice, body: bytes) -> Received:
        now_us = self._clock.now_us()
        payment_ids = payment_ids_of(notice.facts)
        arrival = await lock_event(connection, provider, notice.event_id, notice.type, body, payment_ids, now_us)
        if arrival.outcome is not None:
            return Received(arrival.outcome, repeated=True)
        may_wait = now_us < arrival.first_received_at_us + self._unknown_order_us
        outcome = await self._apply(connection, provider, notice, may_wait=may_wait)
        completed = outcome != "unknown" or not may_wait
        if outcome != "applied" or not arrival.is_new:
            await finish_event(connection, provider, notice.event_id, outcome if completed else None, now_us)
        return Received(outcome, completed=completed)

    async def _apply(
        self, connection: Connection, provider: ProviderName, notice: Notice, *, may_wait: bool
    ) -> Outcome:
        if not notice.facts or self._is_foreign(provider, notice):
            return "ignored"
        if provider == "vnpay" and notice.money is not None and notice.order_id is not None:
            # VNPay states an amount also with a failure: a callback about another amount is about another order.
            order = await load_order(connection, notice.order_id)
            if order is not None and order.money != notice.money and not _is_paid(notice):
                return "mismatched"
        cause = Cause(provider, f"{'webhook' if provider == 'stripe' else 'IPN'} {notice.event_id}")
        return await self._applier.apply_facts(connection, notice.facts, cause, wait_for_order=may_wait, locked=True)

    def _is_foreign(self, provider: ProviderName, notice: Notice) -> bool:
        """Whether a notice about an order is about somebody else's. Refunds and disputes name a payment instead."""
        if not any(isinstance(fact, OrderFact) for fact in notice.facts):
            return False
        marked = notice.order_id is not None
        return not marked or (provider == "stripe" and notice.region not in self._regions)


def _is_paid(notice: Notice) -> bool:
    return any(isinstance(fact, Paid) for fact in notice.facts)
