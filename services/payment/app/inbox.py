"""Callbacks of providers: the event as received and its effect, in one transaction."""

import asyncio
from collections.abc import Callable, Container, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from services.payment.app.facts import Cause, FactApplier, Telling, payment_ids_of
from services.payment.app.gathering import Gathering
from services.payment.metrics import WEBHOOKS
from services.payment.providers import Notice, ProviderName
from services.payment.rules.decision import Outcome
from services.payment.rules.facts import OrderFact, Paid
from services.payment.store.early import load_late_payments
from services.payment.store.inbox import (
    SET_ASIDE_KIND,
    Arrival,
    Callback,
    Ending,
    Kept,
    Key,
    dismiss_problem,
    finish_events,
    keep_problem,
    load_problem,
    load_problems,
    lock_events,
)
from services.payment.store.orders import load_order
from services.payment.store.payments import load_payment
from shared.clock import SECOND_US, Clock
from shared.db import Connection, Pool, is_transient, past_races, transaction
from shared.errors import Refusal
from shared.log import get_logger
from shared.set_aside import describe_error, load_held_back, release, set_aside

# Callbacks that one transaction takes at most, and such transactions at once.
TOGETHER_MAX = 64
TRANSACTIONS_MAX = 2
# As long as others wait for a connection: providers give up earlier, and send again.
PATIENCE_SECONDS = 30
RETRY_EVERY_SECONDS = 30.0
BATCH = 100
PROBLEMS: Final = ("unreadable", "failed")

# Read an event of the inbox, which was verified when it came: its provider, body, and when it came first.
ReadKept = Callable[[ProviderName, bytes, int], Notice]

logger = get_logger(__name__)


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
    def name(self) -> str:
        return f"{self.provider}/{self.notice.event_id}"

    @property
    def cause(self) -> Cause:
        return Cause(self.provider, f"{'webhook' if self.provider == 'stripe' else 'IPN'} {self.notice.event_id}")

    @property
    def is_simple(self) -> bool:
        """Whether it tells one success, or nothing: such events can go together."""
        facts = self.notice.facts
        if self.notice.problem is not None:
            return False
        return not facts or (len(facts) == 1 and isinstance(facts[0], Paid))

    def touches(self) -> frozenset[Hashable]:
        """The event, and the order and the payment of its success."""
        named: set[Hashable] = {("event", self.provider, self.notice.event_id)}
        for fact in self.notice.facts:
            if isinstance(fact, Paid):
                named |= {("order", fact.order_id or fact.payment_id), ("payment", fact.payment_id)}
        return frozenset(named)


class Inbox:
    """Takes callbacks that are verified and read.

    One that could not be read or applied is kept with its reason, counted, tried again by itself ever more seldom, and
    open to an operator: its provider is told that we have it, for sending it again would change nothing.
    """

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        applier: FactApplier,
        regions: Container[str],
        unknown_order_seconds: int,
        read_kept: ReadKept,
    ) -> None:
        self._read_kept = read_kept
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
        try:
            received = await past_races(partial(self._try, item))
        except Exception as error:
            if is_transient(error):
                raise
            received = await self._keep_failed(item, error)
        WEBHOOKS.labels(provider, "repeated" if received.repeated else received.outcome).inc()
        return received

    async def run(self) -> None:
        """Try again what could not be read or applied, until cancelled."""
        while True:
            await self.retry()
            await asyncio.sleep(RETRY_EVERY_SECONDS)

    async def retry(self) -> int:
        """Try events again whose pause is over, each by itself; answer how many have an outcome now."""
        after, done = ("", ""), 0
        while True:
            async with transaction(self._pool) as connection:
                kept = await load_problems(connection, after, BATCH)
                items = [event.item for event in kept]
                held = await load_held_back(connection, SET_ASIDE_KIND, items, self._clock.now_us())
            done += sum([await self._apply_kept(event) for event in kept if event.item not in held])
            if len(kept) < BATCH:
                return done + await self._retry_early()
            after = kept[-1].key

    async def apply_kept(self, key: Key, actor: str) -> None:
        """Try an event again by an operator's word. Raises Refusal where it can't be applied still."""
        async with transaction(self._pool) as connection:
            event = await load_problem(connection, key)
        if event is None:
            raise Refusal("event-not-found", f"no event {'/'.join(key)} waits for being applied", status=404)
        if not await self._apply_kept(event):
            async with transaction(self._pool) as connection:
                event = await load_problem(connection, key) or event
            raise Refusal("not-applied", f"it still can't be applied: {event.problem}")
        logger.info("inbox.applied", event_id=key[1], actor=actor)

    async def dismiss(self, key: Key, actor: str, reason: str) -> None:
        """Let an event that can't be applied rest, by an operator's word. Raises Refusal for none."""
        async with transaction(self._pool) as connection:
            if not await dismiss_problem(connection, key, actor, reason, self._clock.now_us()):
                raise Refusal("event-not-found", f"no event {'/'.join(key)} waits for being applied", status=404)
            await release(connection, SET_ASIDE_KIND, ["/".join(key)])
        logger.warning("inbox.dismissed", event_id=key[1], actor=actor)

    async def _apply_kept(self, event: Kept) -> bool:
        """Read and apply a kept event; whether it has an outcome now."""
        notice = self._read_kept(event.provider, event.body, event.first_received_at_us)
        # Its name is the one under which it was kept.
        item = _Item(event.provider, replace(notice, event_id=event.event_id), event.body)
        try:
            (received,) = await past_races(partial(self._receive, [item], again=True))
        except Exception as error:
            if is_transient(error):
                raise
            received = await self._keep_failed(item, error)
        return received.outcome not in PROBLEMS

    async def _retry_early(self) -> int:
        """Facts of payments that are known by now, which could not be applied when those were captured."""
        async with transaction(self._pool) as connection:
            payment_ids = await load_late_payments(connection, self._clock.now_us(), BATCH)
        for payment_id in payment_ids:
            async with transaction(self._pool) as connection:
                await self._applier.apply_early(connection, payment_id)
        return len(payment_ids)

    async def _try(self, item: _Item) -> Received:
        if item.is_simple:
            return await self._simple.submit(item)
        (received,) = await self._receive([item])
        return received

    async def _keep_failed(self, item: _Item, error: Exception) -> Received:
        async with transaction(self._pool) as connection:
            now_us = self._clock.now_us()
            await keep_problem(connection, item.callback, describe_error(error), now_us)
            await set_aside(connection, SET_ASIDE_KIND, item.name, describe_error(error), now_us)
        return Received("failed")

    async def _receive(self, items: Sequence[_Item], *, again: bool = False) -> list[Received]:
        """Take different events in one transaction; where there are several, all are simple.

        One that has a problem already waits for its turn, or an operator (`again`), not for its provider.
        """
        async with transaction(self._pool) as connection:
            now_us = self._clock.now_us()
            payment_ids = [name for item in items for name in payment_ids_of(item.notice.facts)]
            arrivals = await lock_events(connection, [item.callback for item in items], payment_ids, now_us)
            seen = [_seen(arrival, again=again) for arrival in arrivals]
            fresh = [(item, arrival) for item, arrival, old in zip(items, arrivals, seen, strict=True) if old is None]
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
            _ending(item, end)
            for (item, arrival), end in zip(events, received, strict=True)
            if end.outcome != "applied" or not arrival.is_new
        ]
        await finish_events(connection, endings, now_us)
        for (item, arrival), end in zip(events, received, strict=True):
            if end.outcome == "unreadable":
                await set_aside(connection, SET_ASIDE_KIND, item.name, item.notice.problem or "", now_us)
            elif arrival.problem is not None:
                await release(connection, SET_ASIDE_KIND, [item.name])
        return received

    async def _apply(self, connection: Connection, items: Sequence[_Item], waits: Sequence[bool]) -> list[Outcome]:
        if len(items) == 1 and items[0].notice.problem is not None:
            return ["ignored" if await self._is_none_of_ours(connection, items[0]) else "unreadable"]
        if len(items) == 1 and await _states_another_amount(connection, items[0]):
            return ["mismatched"]
        tellings = [
            Telling(
                () if self._is_foreign(item) else item.notice.facts,
                item.cause,
                wait_for_order=may_wait,
                region=item.notice.region,
            )
            for item, may_wait in zip(items, waits, strict=True)
        ]
        return await self._applier.apply_tellings(connection, tellings)

    def _is_foreign(self, item: _Item) -> bool:
        """Whether a notice is somebody else's. Refunds and disputes name a payment, and a region at most."""
        notice = item.notice
        elsewhere = notice.region is not None and notice.region not in self._regions
        if not any(isinstance(fact, OrderFact) for fact in notice.facts):
            return elsewhere
        return elsewhere or notice.order_id is None or (item.provider == "stripe" and notice.region is None)

    async def _is_none_of_ours(self, connection: Connection, item: _Item) -> bool:
        """Whether an event that can't be read is about somebody else's money; where in doubt it is ours."""
        notice = item.notice
        if notice.region is not None:
            return notice.region not in self._regions
        if notice.payment_id is not None:
            return await load_payment(connection, notice.payment_id) is None
        # Its marks were read, and there are none: it has none of ours.
        return notice.order_id is None and notice.marks_read


def _seen(arrival: Arrival, *, again: bool) -> Received | None:
    """What is answered for an event that was dealt with before; None where it is still to be."""
    if arrival.outcome is not None:
        return Received(arrival.outcome, repeated=True)
    return Received("failed", repeated=True) if arrival.problem is not None and not again else None


def _ending(item: _Item, received: Received) -> Ending:
    is_open = not received.completed or received.outcome in PROBLEMS
    problem = item.notice.problem if received.outcome in PROBLEMS else None
    return Ending(item.provider, item.notice.event_id, None if is_open else received.outcome, problem)


async def _states_another_amount(connection: Connection, item: _Item) -> bool:
    """Whether VNPay tells a failure with another amount than the order's: then it is about another order."""
    notice = item.notice
    if item.is_simple or item.provider != "vnpay" or notice.money is None or notice.order_id is None:
        return False
    order = await load_order(connection, notice.order_id)
    return order is not None and order.money != notice.money
