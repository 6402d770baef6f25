"""Reconciliation: what providers and balance say of our orders, held against what we believe, and healed.

A provider's answer is applied like any webhook, by the same rules. So a lost callback only costs time.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from services.payment.app.credits import Credits
from services.payment.app.facts import Cause, FactApplier
from services.payment.balance_client import BalanceClient
from services.payment.metrics import DIFFERENCES, RECONCILED
from services.payment.providers import PROVIDER_NAMES, AskedOrder, Provider, ProviderName, ProviderRefusal
from services.payment.rules.decision import Outcome
from services.payment.rules.facts import Expired, Fact, Paid
from services.payment.rules.reconciliation import FIRST_ASK_US, RETRY_US, Asking, closes_at_us, next_ask_us
from services.payment.store.asking import (
    UNTRIED_MAX,
    claim_due_orders,
    load_recent_orders,
    load_untried_orders,
    set_next_ask,
)
from services.payment.store.auto_top_ups import has_open_attempt
from services.payment.store.orders import StoredOrder, load_order
from services.payment.store.payments import load_payment, lock_payment_ids
from shared.clock import Clock
from shared.db import Pool, is_transient, past_races, transaction
from shared.errors import TransientFault
from shared.log import get_logger
from shared.set_aside import describe_error, load_held_back, release, set_aside

logger = get_logger(__name__)

BATCH = 20
AT_ONCE = 4
POLL_SECONDS = 5.0
SET_ASIDE_KIND: Final = "reconciliation"

# healed: the provider knew more than we did, and now we know it. failed: it could not be asked or applied, and is set
# aside. The others are open: somebody must look at them.
DifferenceKind = Literal[
    "healed", "queued", "provider-refused", "provider-unreachable", "not-credited", "ledger-differs", "failed"
]


@dataclass(frozen=True, slots=True)
class Difference:
    """Where an order differs: `kind` and one sentence."""

    order_id: str
    kind: DifferenceKind
    detail: str


# After these nobody knows what became of an order.
_UNANSWERED: frozenset[DifferenceKind] = frozenset({"provider-unreachable", "provider-refused", "failed"})
_HEALED: Mapping[Outcome, DifferenceKind] = {"applied": "healed", "mismatched": "queued", "queued": "queued"}


class Reconciler:
    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        providers: Mapping[ProviderName, Provider],
        balance: BalanceClient,
        applier: FactApplier,
        credits_: Credits,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._providers = providers
        self.balance = balance
        self._applier = applier
        self._credits = credits_
        # Of each provider: one that answers late keeps no order of another's waiting. Who waits for an answer about
        # an account's orders has places of his own.
        self._places = {name: asyncio.Semaphore(AT_ONCE) for name in PROVIDER_NAMES}
        self._asked_places = {name: asyncio.Semaphore(AT_ONCE) for name in PROVIDER_NAMES}

    async def run(self) -> None:
        """Ask each provider about what is due until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name in PROVIDER_NAMES:
                group.create_task(self._run(name))

    async def _run(self, provider: ProviderName) -> None:
        while True:
            if not await self.reconcile_due(provider):
                await asyncio.sleep(POLL_SECONDS)

    async def reconcile_due(self, provider: ProviderName) -> int:
        """Ask a provider about its orders that are due; answer how many."""
        now_us = self._clock.now_us()
        async with transaction(self._pool) as connection:
            due = await claim_due_orders(connection, provider, now_us, now_us - FIRST_ASK_US, now_us + RETRY_US, BATCH)
            names = [order.order_id for order in due]
            held = await load_held_back(connection, SET_ASIDE_KIND, names, now_us)
        await asyncio.gather(*(self.reconcile(order) for order in due if order.order_id not in held))
        return len(due)

    async def reconcile_all(
        self, since_us: int, region: str | None, tenant_id: str | None
    ) -> tuple[int, list[Difference]]:
        """Ask about every unsettled order and all since an instant; answer how many, and every difference."""
        asked, after = 0, ""
        differences: list[Difference] = []
        while True:
            async with transaction(self._pool) as connection:
                orders = await load_recent_orders(connection, since_us, after, BATCH, region, tenant_id)
            for found in await asyncio.gather(*(self.reconcile(order) for order in orders)):
                differences += found
            asked += len(orders)
            if len(orders) < BATCH:
                return asked, differences
            after = orders[-1].order_id

    async def ask_untried(self, region: str, tenant_id: str) -> frozenset[str]:
        """Ask now about an account's orders that nobody is known to have tried to pay; those that were answered for.

        What the provider knows of them is applied. Raises TransientFault.
        """
        async with transaction(self._pool) as connection:
            orders = await load_untried_orders(connection, region, tenant_id, UNTRIED_MAX)
        answers = await asyncio.gather(*(self._reconcile(order, self._asked_places) for order in orders))
        return frozenset(
            order.order_id
            for order, found in zip(orders, answers, strict=True)
            if not any(difference.kind in _UNANSWERED for difference in found)
        )

    async def reconcile(self, order: StoredOrder) -> list[Difference]:
        """Ask the provider, then balance, about one order; answer what differed."""
        return await self._reconcile(order, self._places)

    async def _reconcile(
        self, order: StoredOrder, places: Mapping[ProviderName, asyncio.Semaphore]
    ) -> list[Difference]:
        async with places[order.provider]:
            try:
                found = await past_races(partial(self._ask, order))
            except Exception as error:
                if is_transient(error):
                    raise
                found = [await self._set_aside(order.order_id, error)]
        for difference in found:
            DIFFERENCES.labels(order.provider, difference.kind).inc()
            logger.warning("reconciliation.difference", order_id=order.order_id, kind=difference.kind)
        RECONCILED.labels(order.provider).inc()
        return found

    async def _ask(self, order: StoredOrder) -> list[Difference]:
        found = await self._ask_provider(order)
        found += await self._ask_balance(order.order_id)
        await self._release(order.order_id)
        return found

    async def _set_aside(self, order_id: str, error: Exception) -> Difference:
        """Keep an order that can't be asked about or applied out of the way of all others."""
        reason = describe_error(error)
        async with transaction(self._pool) as connection:
            await set_aside(connection, SET_ASIDE_KIND, order_id, reason, self._clock.now_us())
        return Difference(order_id, "failed", reason[:300])

    async def _release(self, order_id: str) -> None:
        async with transaction(self._pool) as connection:
            await release(connection, SET_ASIDE_KIND, [order_id])

    async def _ask_provider(self, order: StoredOrder) -> list[Difference]:
        provider = self._providers.get(order.provider)
        if provider is None:
            return [Difference(order.order_id, "provider-unreachable", f"{order.provider} has no keys here")]
        try:
            found = await self._apply(order, await provider.look_up(_asked(order)))
            if await self._is_over(order.order_id):
                found += await self._close(provider, order)
        except TransientFault as fault:
            # The claim ends by itself, so the order is asked about again.
            return [Difference(order.order_id, "provider-unreachable", str(fault)[:300])]
        except ProviderRefusal as refusal:
            found = [Difference(order.order_id, "provider-refused", refusal.detail[:300])]
        await self._plan(order.order_id)
        return found

    async def _apply(self, order: StoredOrder, facts: Sequence[Fact]) -> list[Difference]:
        if not facts:
            return []
        async with transaction(self._pool) as connection:
            outcome = await self._applier.apply_facts(connection, facts, Cause(order.provider, "reconciliation"))
        kind = _HEALED.get(outcome)
        return [] if kind is None else [Difference(order.order_id, kind, f"the provider knew: {_names(facts)}")]

    async def _is_over(self, order_id: str) -> bool:
        async with transaction(self._pool) as connection:
            order = await load_order(connection, order_id)
            # A saved card's charge ends with its attempt, which asks what became of it.
            if await has_open_attempt(connection, order_id):
                return False
        return order is not None and order.state == "pending" and self._clock.now_us() >= closes_at_us(_asking(order))

    async def _close(self, provider: Provider, order: StoredOrder) -> list[Difference]:
        """Give up an order that nobody paid: close its page, ask a last time, and only then let it expire."""
        if order.page_reference is not None:
            await provider.expire(_asked(order))
            last = await provider.look_up(_asked(order))
            found = await self._apply(order, last)
            if any(isinstance(fact, Paid) for fact in last):
                return found
        async with transaction(self._pool) as connection:
            expired = [Expired(order.order_id)]
            await self._applier.apply_facts(connection, expired, Cause(order.provider, "nothing was paid in time"))
        return []

    async def _plan(self, order_id: str) -> None:
        async with transaction(self._pool) as connection:
            order = await load_order(connection, order_id)
            assert order is not None, "orders are never deleted"
            await set_next_ask(connection, order_id, next_ask_us(_asking(order), self._clock.now_us()))

    async def _ask_balance(self, order_id: str) -> list[Difference]:
        """Hold the ledger against the payment of an order; one that balance credited unheard is acknowledged now."""
        async with transaction(self._pool) as connection:
            order = await load_order(connection, order_id)
            stored = (
                None if order is None or order.payment_id is None else await load_payment(connection, order.payment_id)
            )
        if stored is None or stored.payment.credit_micros is None or stored.region is None or stored.tenant_id is None:
            return []
        payment = stored.payment
        try:
            posted = await self.balance.find_payment(stored.region, stored.tenant_id, payment.payment_id)
        except TransientFault as fault:
            logger.warning("reconciliation.balance_unreachable", error=str(fault)[:300])
            return []
        if posted is None:
            return [Difference(order_id, "not-credited", f"balance has posted nothing for {payment.payment_id} yet")]
        if not payment.credited:
            async with transaction(self._pool) as connection:
                await lock_payment_ids(connection, [payment.payment_id])
                await self._credits.credit(connection, {payment.payment_id: posted.credited_at_us})
        expected_micros = (payment.credit_micros or 0) - payment.reversed_micros
        if posted.net_micros != expected_micros:
            detail = f"the ledger has {posted.net_micros} micros for {payment.payment_id}, payment {expected_micros}"
            return [Difference(order_id, "ledger-differs", detail)]
        return []


def _asked(order: StoredOrder) -> AskedOrder:
    return AskedOrder(
        order.order_id,
        order.region,
        order.tenant_id,
        order.money,
        order.created_at,
        order.page_reference,
        order.payment_id,
    )


def _asking(order: StoredOrder) -> Asking:
    return Asking(order.state, order.created_at, order.expires_at)


def _names(facts: Sequence[Fact]) -> str:
    return ", ".join(type(fact).__name__ for fact in facts)
