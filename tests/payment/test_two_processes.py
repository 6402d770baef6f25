"""Two processes of payment beside each other while their sessions are cut: nothing lost, nothing twice.

A session that PostgreSQL ends fails whoever takes it next with an error that names no connection.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import asyncpg
import pytest

from services.payment.app.auto_top_up import AutoTopUps, Consent
from services.payment.app.refunds import RefundWish
from services.payment.providers import NeedsCustomer, SavedCharge
from services.payment.rules.auto_top_up import AutoTopUp
from services.payment.rules.facts import Fact, Paid, SavedCard
from services.payment.store.orders import StoredOrder
from shared.clock import MINUTE_US
from shared.db import is_transient
from tests.conftest import MakeDatabase
from tests.payment.shop import START_US, Shop, open_shop, paid

UNIT = 1_000_000
# What was paid by hand and is not credited yet counts as balance: the threshold lies above it.
TERMS = AutoTopUp(400_000 * UNIT, 600_000 * UNIT, 900_000 * UNIT, 2_000_000 * UNIT)
CONSENT = Consent("Charge my saved card whenever my balance is low.", "an@example.com")
TENANTS = [f"tenant-{number}" for number in range(12)]
CUT_EVERY_SECONDS = 0.02

Answer = TypeVar("Answer")


@dataclass
class Bank:
    """One bank for both processes; the same request is the same charge."""

    captured: dict[str, str] = field(default_factory=dict)

    async def charge(self, charge: SavedCharge) -> Fact | NeedsCustomer:
        self.captured.setdefault(charge.request_id, f"stripe:pi_auto_{charge.tenant_id}")
        return self._paid(charge)

    async def find(self, charge: SavedCharge, _since_us: int) -> Fact | None:
        return self._paid(charge) if charge.request_id in self.captured else None

    def _paid(self, charge: SavedCharge) -> Paid:
        return Paid(charge.order_id, self.captured[charge.request_id], charge.money, START_US, None, "pi")


async def retried(act: Callable[[], Awaitable[Answer]]) -> Answer:
    """As a provider, a customer or a loop does it: again while the fault passes by itself."""
    while True:
        try:
            return await act()
        except Exception as error:
            if not is_transient(error):
                raise
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def cut_sessions(admin_url: str, database: str) -> AsyncIterator[list[int]]:
    """End sessions of a database one after another, in whatever they are at."""
    cut: list[int] = []

    async def cut_on() -> None:
        connection = await asyncpg.connect(admin_url)
        try:
            while True:
                rows = await connection.fetch(
                    """
                    select pg_terminate_backend(pid) from pg_stat_activity
                    where datname = $1 and application_name = 'payment-test' order by random() limit 1
                    """,
                    database,
                )
                cut.append(len(rows))
                await asyncio.sleep(CUT_EVERY_SECONDS)
        finally:
            await connection.close()

    task = asyncio.create_task(cut_on())
    try:
        yield cut
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def processes(make_database: MakeDatabase) -> AsyncIterator[tuple[str, Shop, Shop]]:
    _, app_url = await make_database("payment")
    async with open_shop(app_url) as one, open_shop(app_url) as other:
        yield app_url.rpartition("/")[2].partition("?")[0], one, other


async def customers(shop: Shop) -> list[StoredOrder]:
    """Each with a saved card, an agreement, and a balance that calls for a charge."""
    orders = []
    for tenant in TENANTS:
        order = await shop.order(tenant_id=tenant)
        await shop.apply(paid(order, f"stripe:pi_first_{tenant}", saved_card=SavedCard(f"cus_{tenant}", "pm")))
        await shop.service.auto_top_ups.agree("vn", tenant, TERMS, CONSENT)
        # Of other accounts: a refund would suspend this one's agreement, and money on its way make its charge smaller.
        await shop.apply(paid(await shop.order(tenant_id=f"{tenant}-refunded"), f"stripe:pi_refunded_{tenant}"))
        orders.append(await shop.order(tenant_id=f"{tenant}-buyer"))
    return orders


async def look_after(top_ups: AutoTopUps) -> None:
    await retried(top_ups.resume)
    await retried(top_ups.charge_due)


async def test_nothing_is_lost_and_nothing_happens_twice_while_sessions_are_cut(
    processes: tuple[str, Shop, Shop], postgres_admin_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, *shops = processes
    bank = Bank()
    for shop in shops:
        monkeypatch.setattr(shop.stripe, "charge_saved", bank.charge)
        monkeypatch.setattr(shop.stripe, "find_charge", bank.find)
    shops[1].stripe.refunds = shops[0].stripe.refunds
    orders = await customers(shops[0])
    async with cut_sessions(postgres_admin_url, database) as cut:
        for round_ in range(3):
            for shop in shops:
                shop.clock.set(START_US + (1 + 2 * round_) * MINUTE_US)
            await asyncio.gather(
                *(
                    retried(
                        lambda shop=shop, order=order: shop.receive(  # type: ignore[misc]
                            f"evt_{order.tenant_id}", paid(order, f"stripe:pi_{order.tenant_id}"), order=order
                        )
                    )
                    for order in orders
                    for shop in shops
                ),
                *(look_after(shop.service.auto_top_ups) for shop in shops),
                *(
                    retried(
                        lambda shop=shop, tenant=tenant: shop.service.refunds.refund(  # type: ignore[misc]
                            RefundWish(f"stripe:pi_refunded_{tenant}", 10_000 * UNIT, "a reason", "kim", "k")
                        )
                    )
                    for tenant in TENANTS
                    for shop in shops
                ),
            )
    assert len(cut) > 5
    # What a cut kept from being carried out is so by a later look; what a payment in between made too much is
    # withdrawn, and charged for less an hour later.
    for minutes in (10, 12, 75, 77, 140, 142):
        for shop in shops:
            shop.clock.set(START_US + minutes * MINUTE_US)
            await look_after(shop.service.auto_top_ups)
    told = await shops[0].told()
    assert len(told) == len(set(told))
    assert {name for name in told if name.startswith("captured/")} == {
        f"captured/stripe:pi_{name}"
        for tenant in TENANTS
        for name in (f"{tenant}-buyer", f"first_{tenant}", f"refunded_{tenant}", f"auto_{tenant}")
    }
    assert len([name for name in told if name.startswith("refunded/")]) == len(TENANTS)
    assert len(bank.captured) == len(TENANTS)
    attempts = dict(await shops[0].rows("select state, count(*) from auto_top_up_attempt group by state"))
    assert attempts.pop("paid") == len(TENANTS)
    assert set(attempts) <= {"withdrawn"}
    assert await shops[0].rows("select kind, item, reason from set_aside") == []
    assert await shops[0].rows("select event_id from inbox where completed_at is null") == []
