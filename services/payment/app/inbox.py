"""Callbacks of providers: the event as received and its effect, in one transaction."""

from collections.abc import Container, Hashable, Sequence
from dataclasses import dataclass

from services.payment.app.facts import Cause, FactApplier, Telling, payment_ids_of
from services.payment.app.gathering import Gathering
from services.payment.metrics import WEBHOOKS
from services.payment.providers import Notice, ProviderName
from services.payment.rules.decision import Outcome
from services.payment.rules.facts import OrderFact, Paid
from services.payment.store.inbox import Arrival, Callback, Ending, finish_events, lock_events
from services.payment.store.orders import load_order
from shared.clock import SECOND_US, Clock
from shared.db import Connection, Pool, transaction

# Callbacks that one transaction takes at most, and such transactions at once.
TOGETHER_MAX = 64
TRANSACTIONS_MAX = 2
# As long as others wait for a connection: providers give up earlier, and send again.
PATIENCE_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Received:
    """What became of a callback. `completed` False: it was kept but has no effect yet, so it must be sent again.

    `repeated`: this very event had been completed before, with this outcome.
    """

    outcome: Outcome
    completed: bool = True
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class _Item:
    """A verified callback, and what it says."""

    provider: ProviderName
    notice: Notice
    body: bytes

    @property
    def callback(self) -> Callback:
        return Callback(self.provider, self.notice.event_id, self.notice.type, self.body)

    @property
    def cause(self) -> Cause:
        return Cause(self.provider, f"{'webhook' if self.provider == 'stripe' else 'IPN'} {self.notice.event_id}")

    @property
    def is_simple(self) -> bool:
        """Whether it tells one success, or nothing: such events can go together."""
        facts = self.notice.facts
        return not facts or (len(facts) == 1 and isinstance(facts[0], Paid))

    def touches(self) -> frozenset[Hashable]:
        """The event, and the order and the payment of its success."""
        named: set[Hashable] = {("event", self.provider, self.notice.event_id)}
        for fact in self.notice.facts:
            if isinstance(fact, Paid):
                named |= {("order", fact.order_id or fact.payment_id), ("payment", fact.payment_id)}
        return frozenset(named)


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
        self._simple = Gathering(
            self._receive,
            _Item.touches,
            items_max=TOGETHER_MAX,
            runs_max=TRANSACTIONS_MAX,
            patience_seconds=PATIENCE_SECONDS,
        )

    async def receive(self, provider: ProviderName, notice: Notice, body: bytes) -> Received:
        """Apply a callback once, however often and however many at a time it comes."""
        item = _Item(provider, notice, body)
        if item.is_simple:
            received = await self._simple.submit(item)
        else:
            (received,) = await self._receive([item])
        WEBHOOKS.labels(provider, "repeated" if received.repeated else received.outcome).inc()
        return received

    async def _receive(self, items: Sequence[_Item]) -> list[Received]:
        """Take different events in one transaction; where there are several, all are simple."""
        async with transaction(self._pool) as connection:
            now_us = self._clock.now_us()
            payment_ids = [name for item in items for name in payment_ids_of(item.notice.facts)]
            arrivals = await lock_events(connection, [item.callback for item in items], payment_ids, now_us)
            seen = [None if it.outcome is None else Received(it.outcome, repeated=True) for it in arrivals]
            fresh = [(item, arrival) for item, arrival in zip(items, arrivals, strict=True) if arrival.outcome is None]
            taken = iter(await self._take(connection, fresh, now_us) if fresh else ())
        return [received or next(taken) for received in seen]

    async def _take(
        self, connection: Connection, events: Sequence[tuple[_Item, Arrival]], now_us: int
    ) -> list[Received]:
        """Apply events that are locked and not completed, and note what became of each."""
        waits = [now_us < arrival.first_received_at_us + self._unknown_order_us for _, arrival in events]
        outcomes = await self._apply(connection, [item for item, _ in events], waits)
        received = [
            Received(outcome, completed=outcome != "unknown" or not may_wait)
            for outcome, may_wait in zip(outcomes, waits, strict=True)
        ]
        endings = [
            Ending(item.provider, item.notice.event_id, end.outcome if end.completed else None)
            for (item, arrival), end in zip(events, received, strict=True)
            if end.outcome != "applied" or not arrival.is_new
        ]
        await finish_events(connection, endings, now_us)
        return received

    async def _apply(self, connection: Connection, items: Sequence[_Item], waits: Sequence[bool]) -> list[Outcome]:
        if len(items) == 1 and await _states_another_amount(connection, items[0]):
            return ["mismatched"]
        tellings = [
            Telling(() if self._is_foreign(item) else item.notice.facts, item.cause, wait_for_order=may_wait)
            for item, may_wait in zip(items, waits, strict=True)
        ]
        return await self._applier.apply_tellings(connection, tellings)

    def _is_foreign(self, item: _Item) -> bool:
        """Whether a notice about an order is about somebody else's. Refunds and disputes name a payment instead."""
        notice = item.notice
        if not any(isinstance(fact, OrderFact) for fact in notice.facts):
            return False
        marked = notice.order_id is not None
        return not marked or (item.provider == "stripe" and notice.region not in self._regions)


async def _states_another_amount(connection: Connection, item: _Item) -> bool:
    """Whether VNPay tells a failure with another amount than the order's: then it is about another order."""
    notice = item.notice
    if item.is_simple or item.provider != "vnpay" or notice.money is None or notice.order_id is None:
        return False
    order = await load_order(connection, notice.order_id)
    return order is not None and order.money != notice.money
