"""Payment and balance on databases of their own, and providers that know the truth; facts travel as outbox bytes.

Kafka is left out: what a relay would send is carried by hand, as often as a story wants. A crash is an exception at a
named point, in the middle of a transaction or just after it, as far as a process without memory can tell.
"""

import contextlib
import importlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from services.balance.api import BalanceApi
from services.balance.api_payments import PaymentsApi
from services.payment.balance_client import BalanceClient
from services.payment.providers import AskedOrder, ProviderName, RefundOrder
from services.payment.rules.facts import DisputeClosed, Disputed, Expired, Fact, Paid, Refunded, RefundFailed
from services.payment.service import wire_service
from services.payment.settings import PaymentSettings
from shared.clock import FixedClock
from shared.consumer import Poll
from shared.db import ensure_partitions, open_pool, transaction
from shared.errors import TransientFault
from shared.http import create_api
from shared.kafka import Record
from shared.topics import ACCOUNT_EVENTS
from tests.balance.batches import TOPIC_ID
from tests.balance.books import START_US, Books
from tests.payment.fake_provider import FakeBalance, FakeProvider
from tests.payment.shop import Shop, make_shared

_TOLD = """
    select value from outbox where convert_from(key, 'UTF8') like $1 order by stream, seq
"""
# Where a process may end: (module:name, before or after it). After a use case its transaction is in, its answer is not.
CRASHES = {
    "the order is committed": ("services.payment.balance_client:BalanceClient.register", "before"),
    "the order is registered": ("services.payment.balance_client:BalanceClient.register", "after"),
    "the provider opened the page": ("tests.payment.world:Bank.open_page", "after"),
    "the event is locked": ("services.payment.app.inbox:lock_events", "after"),
    "the order is changed": ("services.payment.app.facts:update_orders", "after"),
    "the payment is inserted": ("services.payment.app.facts:insert_payments", "after"),
    "the messages are appended": ("services.payment.app.facts:append_messages", "after"),
    "the webhook is committed": ("services.payment.app.inbox:Inbox.receive", "after"),
    "the provider took the refund": ("tests.payment.world:Bank.refund", "after"),
    "the provider was asked": ("tests.payment.world:Bank.look_up", "after"),
    "the credit is marked": ("services.payment.app.credits:mark_credited", "after"),
    "balance is about to post": ("services.balance.app.payments:lock_heads", "after"),
    "balance has posted, and not noted the fact": ("services.balance.app.payments:insert_facts", "before"),
    "balance has applied the poll": ("services.balance.app.payments:PaymentPoster.apply", "after"),
}


class Crash(TransientFault):
    """The process ended; only what was committed is left."""


@contextlib.contextmanager
def crash_at(point: str | None) -> Iterator[list[str]]:
    """Let whatever runs in the block end at a point, if it gets there; the list then has the point."""
    met: list[str] = []
    if point is None:
        yield met
        return
    target, when = CRASHES[point]
    module, _, path = target.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    function = getattr(owner, name)

    async def ending(*arguments: Any, **options: Any) -> Any:
        if when == "after":
            await function(*arguments, **options)
        met.append(point)
        raise Crash(point)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Crash):
        patch.setattr(owner, name, ending)
        yield met


@dataclass
class Truth:
    """What one payment really is at its provider: captured money, and what of it went where."""

    paid: Paid
    refunds: dict[str, Refunded | RefundFailed] = field(default_factory=dict)
    disputes: dict[str, Disputed | DisputeClosed] = field(default_factory=dict)

    @property
    def facts(self) -> list[Fact]:
        """What the provider answers when it is asked."""
        return [self.paid, *self.refunds.values(), *self.disputes.values()]

    @property
    def gone_micros(self) -> int:
        refunds = [item.money.amount_micros for item in self.refunds.values() if isinstance(item, Refunded)]
        disputes = [item.money.amount_micros for item in self.disputes.values() if item.withdrawn]
        return sum(refunds) + sum(disputes)

    @property
    def is_disputed(self) -> bool:
        return any(isinstance(item, Disputed) for item in self.disputes.values())


@dataclass
class Bank(FakeProvider):
    """A provider with truth of its own, by order; closed pages can't be paid."""

    truths: dict[str, Truth] = field(default_factory=dict)

    async def look_up(self, order: AskedOrder) -> list[Fact]:
        self._check()
        if order.order_id in self.truths:
            return self.truths[order.order_id].facts
        return [Expired(order.order_id)] if order.order_id in self.expired else []

    async def find_refund(self, refund: RefundOrder) -> Fact | None:
        self._check()
        truths = [item for item in self.truths.values() if item.paid.payment_id == refund.payment_id]
        return truths[0].refunds.get(f"{self.name}:re_{refund.request_id}")

    async def refund(self, refund: RefundOrder) -> Fact:
        """Refunds once per request; the rest of a payment is the most that it sends back."""
        self._check()
        truth = next(item for item in self.truths.values() if item.paid.payment_id == refund.payment_id)
        refund_id = f"{self.name}:re_{refund.request_id}"
        left_micros = truth.paid.money.amount_micros - truth.gone_micros
        if refund_id not in truth.refunds:
            takes = refund.money.amount_micros <= left_micros
            truth.refunds[refund_id] = (
                Refunded(refund.payment_id, refund_id, refund.money, "pending")
                if takes
                else RefundFailed(refund.payment_id, refund_id, refund.money, "insufficient_funds")
            )
        return truth.refunds[refund_id]


@dataclass
class World:
    """Both services, with no process, and what would carry facts between them."""

    shop: Shop
    books: Books
    banks: dict[ProviderName, Bank]

    async def told(self, tenants: str) -> list[bytes]:
        """What payment has told of the tenants whose names begin so."""
        rows = await self.shop.rows(_TOLD, f"vn/{tenants}%")
        return [bytes(value) for (value,) in rows]

    async def carry_to_balance(self, tenants: str) -> None:
        """Apply everything that payment ever told of tenants, as a relay that lost its cursor sends it again."""
        if values := await self.told(tenants):
            await self.books.pay(*values)

    async def carry_to_payment(self, tenants: str) -> None:
        """As above, the other way."""
        rows = await self.books.rows(_TOLD, f"vn/{tenants}%")
        poll = Poll([Record(ACCOUNT_EVENTS, TOPIC_ID, 0, number, None, value) for number, (value,) in enumerate(rows)])  # type: ignore[arg-type]
        async with transaction(self.shop.service.pool) as connection:
            await self.shop.service.credits.apply(connection, poll)
        assert not poll.dead


@contextlib.asynccontextmanager
async def open_world(payment_url: str, balance_owner_url: str, balance_url: str) -> AsyncIterator[World]:
    """Both services, wired as `main` wires them but for Kafka and HTTP sockets."""
    clock = FixedClock(START_US)
    balance_pool = await open_pool(balance_url, application="balance-test", size_max=4)
    pool = await open_pool(payment_url, application="payment-test", size_max=4)
    books = Books.wire(balance_owner_url, balance_pool, clock)
    api = create_api("balance", readiness=dict)
    api.include_router(BalanceApi(balance_pool, clock, books.accounts, books.permits).router)
    api.include_router(PaymentsApi(balance_pool, books.orders).router)
    banks: dict[ProviderName, Bank] = {"stripe": Bank("stripe"), "vnpay": Bank("vnpay")}
    transport = httpx.ASGITransport(api)
    try:
        async with transaction(pool) as connection:
            await ensure_partitions(connection, "outbox", START_US)
        async with httpx.AsyncClient(transport=transport, base_url="http://balance") as client:
            settings = PaymentSettings(database_url=payment_url)
            service = wire_service(pool, clock, make_shared(), settings, BalanceClient(client), banks)
            shop = Shop(service, clock, FakeBalance(), banks["stripe"], banks["vnpay"])
            yield World(shop, books, banks)
    finally:
        await pool.close()
        await balance_pool.close()
