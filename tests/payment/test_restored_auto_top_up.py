"""Automatic top-up after a restore: the caps count what was charged before it, and no number is used twice."""

from collections.abc import AsyncIterator

import pytest

from services.payment.app.auto_top_up import Consent
from services.payment.app.recovery import list_unknown_orders
from services.payment.balance_client import BalanceClient, PendingOrder
from services.payment.rules.auto_top_up import AutoTopUp
from services.payment.rules.facts import SavedCard
from shared.clock import DAY_US, HOUR_US, MINUTE_US
from tests.payment.restoring import Restoring, open_restoring
from tests.payment.shop import Shop, make_shared, paid
from tests.payment.test_auto_top_up import Bank
from tests.support.databases import Databases

UNIT = 1_000_000
TERMS = AutoTopUp(100_000 * UNIT, 300_000 * UNIT, 400_000 * UNIT, 600_000 * UNIT)
CONSENT = Consent("Charge my saved card whenever my balance is low.", "an@example.com")
CARD = SavedCard("cus_1", "pm_1")
ATTEMPTS = "select number, amount_micros / 1000000, state from auto_top_up_attempt order by number"


@pytest.fixture
async def restoring(databases: Databases) -> AsyncIterator[Restoring]:
    async with open_restoring(databases) as made:
        yield made


@pytest.fixture
def bank(monkeypatch: pytest.MonkeyPatch) -> Bank:
    """One bank for both lives of the database."""
    made = Bank()
    monkeypatch.setattr("tests.payment.fake_provider.FakeProvider.charge_saved", lambda _, charge: made.charge(charge))
    monkeypatch.setattr(
        "tests.payment.fake_provider.FakeProvider.find_charge", lambda _, charge, since_us: made.find(charge, since_us)
    )
    return made


async def save_card(shop: Shop) -> None:
    order = await shop.order()
    await shop.apply(paid(order, "stripe:pi_first", saved_card=CARD))
    await shop.acknowledge("stripe:pi_first")


async def agree(shop: Shop) -> None:
    await shop.service.auto_top_ups.agree("vn", "acme", TERMS, CONSENT)


async def charge(shop: Shop) -> int:
    """Charge what is due an hour later, with an empty balance that has all that was credited."""
    shop.clock.set(shop.clock.now_us() + HOUR_US)
    await shop.service.auto_top_ups.resume()
    charged = await shop.service.auto_top_ups.charge_due()
    for (payment_id,) in await shop.rows("select payment_id from payment where credited_at is null"):
        await shop.acknowledge(payment_id)
    return charged


@pytest.mark.parametrize("is_known", [True, False], ids=["agreed before the backup", "agreed after it"])
async def test_caps_count_what_was_charged_before_the_restore(
    restoring: Restoring, bank: Bank, *, is_known: bool
) -> None:
    async with restoring.before() as shop:
        await save_card(shop)
        if is_known:
            await agree(shop)
    async with restoring.lost() as shop:
        if not is_known:
            await agree(shop)
        assert await charge(shop) == 1
        was = await shop.rows(ATTEMPTS)
        asked = await shop.rows("select order_id, request_hash, idempotency_key, credit_micros from payment_order")
    async with restoring.after() as shop:
        assert await shop.rows(ATTEMPTS) == was == [(1, 300_000, "paid")]
        again = await shop.rows("select order_id, request_hash, idempotency_key, credit_micros from payment_order")
        assert sorted(again) == sorted(asked)
        await agree(shop)
        for _ in range(5):
            await charge(shop)
        # The day's cap, in all; and numbers that no lost attempt can have had.
        assert await shop.rows(ATTEMPTS) == [(1, 300_000, "paid"), (1_000_001, 100_000, "paid")]
        shop.clock.set(shop.clock.now_us() + DAY_US)
        assert await charge(shop) == 1
        # And the month's.
        assert sum(item.money.amount_micros for item in bank.charges) == 600_000 * UNIT
        assert len({item.order_id for item in bank.charges}) == 3


async def test_a_second_restore_finds_what_was_charged_after_the_first(restoring: Restoring, bank: Bank) -> None:
    """The backup is older than both."""
    async with restoring.before() as shop:
        await save_card(shop)
        await agree(shop)
    async with restoring.lost() as shop:
        await charge(shop)
    async with restoring.after() as shop:
        await agree(shop)
        for _ in range(2):
            await charge(shop)
        restoring.now_us = shop.clock.now_us()
        await restoring.publish(shop)
    async with restoring.after(incarnation=2) as shop:
        assert await shop.rows(ATTEMPTS) == [(1, 300_000, "paid"), (1_000_001, 100_000, "paid")]
        await agree(shop)
        assert await charge(shop) == 0
    assert len(bank.charges) == 2


async def test_a_charge_whose_sending_was_lost_is_asked_about_and_counts(restoring: Restoring, bank: Bank) -> None:
    """The backup has the attempt, and not that the card was charged; nobody was told of that."""
    async with restoring.before() as shop:
        await save_card(shop)
        await agree(shop)
        shop.balance.down = True
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("services.payment.balance_client.BalanceClient.find_balance", _empty)
            await shop.service.auto_top_ups.charge_due()
        [(order_id, sent_at_us)] = await shop.rows("select order_id, sent_at from auto_top_up_attempt")
        assert sent_at_us is None
    async with restoring.lost() as shop:
        bank.down = 1
        shop.clock.set(shop.clock.now_us() + MINUTE_US)
        await shop.service.auto_top_ups.resume()
        assert len(bank.charges) == 1
    async with restoring.after() as shop:
        shop.clock.set(shop.clock.now_us() + 2 * MINUTE_US)
        assert await shop.service.auto_top_ups.resume() == 1
        assert await shop.rows(ATTEMPTS) == [(1, 300_000, "paid")]
        assert (await shop.told())[-2:] == ["auto_top_up_suspended/vn/acme/1000001", "captured/stripe:pi_auto_0"]
    assert [item.order_id for item in bank.charges] == [order_id]


async def _empty(_client: BalanceClient, _region: str, _tenant_id: str) -> int:
    return 0


async def test_a_charge_that_was_given_up_and_happened_all_the_same_counts(restoring: Restoring, bank: Bank) -> None:
    async with restoring.before() as shop:
        await save_card(shop)
        await agree(shop)
        bank.lost = True
        await charge(shop)
        bank.lost = False
        await shop.service.auto_top_ups.end("vn", "acme")
        shop.clock.set(shop.clock.now_us() + MINUTE_US)
        await shop.service.auto_top_ups.resume()
        [(order_id, state)] = await shop.rows("select order_id, state from auto_top_up_attempt")
        assert state == "withdrawn"
        await shop.apply(paid(await shop.service.topups.load(order_id), "stripe:pi_late"))
        await shop.acknowledge("stripe:pi_late")
        await agree(shop)
        await charge(shop)
        assert bank.charges[-1].money.amount_micros == 100_000 * UNIT


@pytest.mark.parametrize("happened", [True, False], ids=["it happened", "it did not happen"])
async def test_a_lost_charge_that_balance_waits_for_is_asked_about(
    restoring: Restoring, bank: Bank, *, happened: bool
) -> None:
    """The attempt came after the backup and has no outcome that was told."""
    async with restoring.before() as shop:
        await save_card(shop)
        await agree(shop)
    async with restoring.lost() as shop:
        bank.down, bank.lost = int(happened), not happened
        await charge(shop)
        bank.lost = False
        [order_id] = [name for name, body in shop.balance.registered.items() if body["attempted"]]
        body = shop.balance.registered[order_id]
        registered_at_us = shop.clock.now_us()
        shop.clock.set(shop.clock.now_us() + 2 * MINUTE_US)
    async with restoring.after() as shop:
        pending = PendingOrder(
            order_id, "vn", "acme", "stripe", body["credit_micros"], registered_at_us, attempted=True
        )
        await look_for_unknown_orders(shop, pending)
        await look_for_unknown_orders(shop, pending)
        assert await shop.service.auto_top_ups.resume() == 1
        assert await shop.rows(ATTEMPTS) == [(1, 300_000, "paid" if happened else "withdrawn")]
        await agree(shop)
        for _ in range(3):
            await charge(shop)
        told = [300_000, 100_000] if not happened else [100_000]
        assert [item.money.amount_micros // UNIT for item in bank.charges[1:]] == told


async def look_for_unknown_orders(shop: Shop, *pending: PendingOrder) -> None:
    """What the loop over registrations begins with."""

    async def list_pending(_client: BalanceClient) -> AsyncIterator[list[PendingOrder]]:
        yield list(pending)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("services.payment.balance_client.BalanceClient.list_pending_orders", list_pending)
        assert await list_unknown_orders(shop.service.pool, shop.service.reconciler.balance, make_shared()) == 0
