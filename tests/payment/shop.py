"""Payment's use cases wired to a database, a fake balance and fake providers, with a clock that stands."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import orjson

from services.payment.app.facts import Cause
from services.payment.app.inbox import Received
from services.payment.app.topups import TopUpRequest
from services.payment.balance_client import BalanceClient
from services.payment.providers import PROVIDER_NAMES, Notice, ProviderName
from services.payment.rules.decision import Outcome
from services.payment.rules.facts import Fact, Money, Paid, Payer
from services.payment.service import Service, wire_service
from services.payment.settings import PaymentSettings
from services.payment.store.orders import StoredOrder
from shared.clock import FixedClock
from shared.consumer import Poll
from shared.db import ensure_partitions, open_pool, transaction
from shared.kafka import Record
from shared.settings import Region, SharedSettings
from shared.topics import ACCOUNT_EVENTS
from tests.payment.fake_provider import FakeBalance, FakeProvider

START_US = 1_800_000_000_000_000
SHARDS = 4


def make_shared() -> SharedSettings:
    opened = "2020-01-01T00:00:00Z"
    return SharedSettings(
        regions={"vn": Region(currency="VND", opened_at=opened), "jp": Region(currency="JPY", opened_at=opened)},
        shards=SHARDS,
    )


@dataclass
class Shop:
    """A payment service without processes, and the test's hands on it."""

    service: Service
    clock: FixedClock
    balance: FakeBalance
    stripe: FakeProvider
    vnpay: FakeProvider
    _made: int = 0

    def request(self, amount: str = "250000", **changes: Any) -> TopUpRequest:
        """A wish for a top-up in dong, of a fresh key."""
        self._made += 1
        wish = TopUpRequest("vn", "acme", amount, "VND", "stripe", f"key-{self._made}", payer_ip="203.0.113.7")
        return replace(wish, **changes)

    async def order(self, amount: str = "250000", **changes: Any) -> StoredOrder:
        """A new order, with its page."""
        return await self.service.topups.create(self.request(amount, **changes))

    async def receive(self, event_id: str, *facts: Fact, order: StoredOrder | None = None, **changes: Any) -> Received:
        """A webhook of an order with facts, through the inbox."""
        notice = Notice(event_id, "test", "vn", None if order is None else order.order_id, facts)
        provider: ProviderName = changes.pop("provider", "stripe")
        return await self.service.inbox.receive(provider, replace(notice, **changes), event_id.encode())

    async def apply(self, *facts: Fact, provider: ProviderName = "stripe") -> Outcome:
        async with transaction(self.service.pool) as connection:
            return await self.service.applier.apply_facts(connection, facts, Cause(provider, "test"))

    async def acknowledge(self, payment_id: str, amount_micros: int = 1, *, offset: int | None = None) -> Poll:
        """Let balance say that it credited a payment."""
        self._made += 1
        record = credit_record(payment_id, amount_micros, self._made if offset is None else offset)
        poll = Poll([record])
        async with transaction(self.service.pool) as connection:
            await self.service.credits.apply(connection, poll)
        return poll

    async def state(self, order: StoredOrder) -> str:
        return (await self.service.topups.load(order.order_id)).state

    async def events(self) -> list[dict[str, Any]]:
        """What was published, in order."""
        rows = await self.rows("select value from outbox order by stream, seq")
        return [orjson.loads(value) for (value,) in rows]

    async def told(self) -> list[str]:
        return [event["id"] for event in await self.events()]

    async def reconcile_due(self) -> int:
        """Ask both providers about what is due; answer how many orders."""
        asked = await asyncio.gather(*(self.service.reconciler.reconcile_due(name) for name in PROVIDER_NAMES))
        return sum(asked)

    async def rows(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        async with self.service.pool.acquire() as connection:
            return [tuple(row) for row in await connection.fetch(query, *arguments)]


def paid(order: StoredOrder, payment_id: str = "stripe:pi_1", **changes: Any) -> Paid:
    fact = Paid(order.order_id, payment_id, order.money, START_US, Payer("Nguyễn An", "an@example.com"), "ref")
    return replace(fact, **changes)


def vnd(units: int) -> Money:
    return Money(units * 1_000_000, "VND")


def credit_record(payment_id: str, amount_micros: int, offset: int) -> Record:

    event = {
        "specversion": "1.0",
        "id": f"vn/acme/{offset}",
        "source": "tollkeeper/balance",
        "type": "account.credited",
        "subject": "vn/acme",
        "time": "2027-01-15T08:00:00Z",
        "datacontenttype": "application/json",
        "data": {
            "region": "vn",
            "tenant_id": "acme",
            "account_version": offset,
            "currency": "VND",
            "state": "ok",
            "balance_micros": amount_micros,
            "spendable_micros": amount_micros,
            "burn_micros_per_hour": 0,
            "negative_since": None,
            "amount_micros": amount_micros,
            "credit_id": payment_id,
            "credit_kind": "payment",
        },
    }
    return Record(ACCOUNT_EVENTS, uuid.UUID(int=7), 0, offset, None, orjson.dumps(event))


@contextlib.asynccontextmanager
async def open_shop(app_url: str, **settings: Any) -> AsyncIterator[Shop]:
    pool = await open_pool(app_url, application="payment-test", size_max=20)
    balance, clock = FakeBalance(), FixedClock(START_US)
    stripe, vnpay = FakeProvider("stripe"), FakeProvider("vnpay")
    transport = httpx.ASGITransport(balance.api)
    try:
        async with transaction(pool) as connection:
            await ensure_partitions(connection, "outbox", START_US)
        async with httpx.AsyncClient(transport=transport, base_url="http://balance") as client:
            own = PaymentSettings(database_url=app_url, **settings)
            service = wire_service(
                pool, clock, make_shared(), own, BalanceClient(client), {"stripe": stripe, "vnpay": vnpay}
            )
            yield Shop(service, clock, balance, stripe, vnpay)
    finally:
        await pool.close()


__all__ = ["START_US", "Shop", "credit_record", "make_shared", "open_shop", "paid", "vnd"]
