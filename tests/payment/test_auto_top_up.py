"""Automatic top-up on real PostgreSQL: charged as agreed, once, whoever dies or races; stopped when it must."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from services.payment.app import auto_top_up
from services.payment.app.auto_top_up import Consent
from services.payment.balance_client import BalanceClient
from services.payment.providers import NeedsCustomer, SavedCharge
from services.payment.rules.auto_top_up import AutoTopUp
from services.payment.rules.facts import (
    Attempted,
    Declined,
    DisputeClosed,
    Disputed,
    Fact,
    Paid,
    Refunded,
    RefundFailed,
    SavedCard,
)
from services.payment.store.auto_top_ups import mark_charging, suspend
from shared.clock import HOUR_US, MINUTE_US
from shared.db import transaction
from shared.errors import Refusal, TransientFault
from tests.payment.shop import START_US, Shop, paid, vnd

UNIT = 1_000_000
TERMS = AutoTopUp(100_000 * UNIT, 300_000 * UNIT, 900_000 * UNIT, 2_000_000 * UNIT)
CONSENT = Consent("Charge my saved card whenever my balance is low.", "an@example.com")
CARD = SavedCard("cus_1", "pm_1")


@dataclass
class Bank:
    """Answers charges of saved cards; the same request is the same charge."""

    says: str = "paid"
    charges: list[SavedCharge] = field(default_factory=list)
    captured: dict[str, str] = field(default_factory=dict)
    down: int = 0
    lost: bool = False
    silent: int = 0
    questions: int = 0

    async def charge(self, charge: SavedCharge) -> Fact | NeedsCustomer:
        self.charges.append(charge)
        if self.lost:
            raise TransientFault("the request was lost")
        if self.says == "paid":
            self.captured.setdefault(charge.request_id, f"stripe:pi_auto_{len(self.captured)}")
        if self.down:
            self.down -= 1
            raise TransientFault("the answer was lost")
        if self.says == "declined":
            return Declined(charge.order_id, "card_declined", final=True)
        if self.says == "needs customer":
            return NeedsCustomer(charge.order_id, "pi_wait", "authentication_required")
        if self.says == "processing":
            return Attempted(charge.order_id, "processing")
        return self._paid(charge)

    async def find(self, charge: SavedCharge, _since_us: int) -> Fact | None:
        """What became of a charge: captured, being processed, or never heard of."""
        self.questions += 1
        if self.silent:
            self.silent -= 1
            raise TransientFault("out of reach")
        if charge.request_id in self.captured:
            return self._paid(charge)
        return Attempted(charge.order_id, "processing") if self.says == "processing" else None

    def _paid(self, charge: SavedCharge) -> Paid:
        return Paid(charge.order_id, self.captured[charge.request_id], charge.money, START_US, None, "pi")


@pytest.fixture
async def bank(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Bank:
    """A bank, and a customer with a saved card who agreed."""
    made = Bank()
    monkeypatch.setattr(shop.stripe, "charge_saved", made.charge)
    monkeypatch.setattr(shop.stripe, "find_charge", made.find)
    order = await shop.order()
    await shop.apply(paid(order, "stripe:pi_first"))
    # The session told of the payment first; the intent, which names the card, comes after.
    await shop.apply(paid(order, "stripe:pi_first", saved_card=CARD))
    await shop.acknowledge("stripe:pi_first")
    await shop.service.auto_top_ups.agree("vn", "acme", TERMS, CONSENT)
    return made


async def attempts(shop: Shop) -> list[tuple[int, str]]:
    rows = await shop.rows("select amount_micros, state from auto_top_up_attempt order by number")
    return [(amount // UNIT, state) for amount, state in rows]


async def test_without_a_saved_card_nothing_can_be_agreed(shop: Shop) -> None:
    with pytest.raises(Refusal, match="card-needed"):
        await shop.service.auto_top_ups.agree("vn", "acme", TERMS, CONSENT)
    with pytest.raises(Refusal, match="no-auto-top-up"):
        await shop.service.auto_top_ups.load("vn", "acme")


async def test_a_low_balance_is_filled_up_once_and_registered_before_the_card_is_charged(
    shop: Shop, bank: Bank
) -> None:
    shop.balance.balance_micros = 40_000 * UNIT
    assert sum(await asyncio.gather(*(shop.service.auto_top_ups.charge_due() for _ in range(5)))) == 1
    assert await attempts(shop) == [(260_000, "paid")]
    [charge] = bank.charges
    assert (charge.money, charge.card) == (vnd(260_000), CARD)
    assert shop.balance.registered[charge.order_id]["attempted"] is True
    assert (await shop.told())[-1] == "captured/stripe:pi_auto_0"
    assert await shop.service.auto_top_ups.charge_due() == 0
    await shop.acknowledge("stripe:pi_auto_0")
    shop.clock.set(START_US + HOUR_US)
    assert await shop.service.auto_top_ups.charge_due() == 1


async def test_a_balance_at_the_threshold_and_an_ended_agreement_are_left_alone(shop: Shop, bank: Bank) -> None:
    shop.balance.balance_micros = 100_000 * UNIT
    assert await shop.service.auto_top_ups.charge_due() == 0
    shop.balance.balance_micros = 0
    await shop.service.auto_top_ups.end("vn", "acme")
    assert await shop.service.auto_top_ups.charge_due() == 0
    assert bank.charges == []
    shop.balance.down = True
    await shop.service.auto_top_ups.agree("vn", "acme", TERMS, CONSENT)
    assert await shop.service.auto_top_ups.charge_due() == 0


def wait(shop: Shop, minutes: int = 2) -> None:
    shop.clock.set(shop.clock.now_us() + minutes * MINUTE_US)


async def test_a_lost_answer_is_asked_for_and_is_one_charge_and_one_credit(shop: Shop, bank: Bank) -> None:
    bank.down = 1
    assert await shop.service.auto_top_ups.charge_due() == 0
    assert await attempts(shop) == [(300_000, "open")]
    assert await shop.service.auto_top_ups.charge_due() == 0
    # Whoever sent it may still be at it.
    assert (await shop.service.auto_top_ups.resume(), bank.questions) == (0, 0)
    bank.silent = 1
    wait(shop)
    assert (await shop.service.auto_top_ups.resume(), bank.questions) == (0, 1)
    wait(shop)
    assert (await shop.service.auto_top_ups.resume(), bank.questions) == (1, 2)
    assert len(bank.charges) == 1
    assert len(bank.captured) == 1
    # Its webhook comes too.
    [charge] = {charge.order_id: charge for charge in bank.charges}.values()
    order = await shop.service.topups.load(charge.order_id)
    await shop.receive("evt_auto", paid(order, "stripe:pi_auto_0"), order=order)
    assert [name for name in await shop.told() if "pi_auto" in name] == ["captured/stripe:pi_auto_0"]


async def test_no_registration_no_charge(shop: Shop, bank: Bank) -> None:
    shop.balance.balance_micros = 0
    shop.balance.refuses = True
    assert await shop.service.auto_top_ups.charge_due() == 0
    assert (await attempts(shop), bank.charges) == ([(300_000, "open")], [])
    shop.balance.refuses = False
    wait(shop)
    assert await shop.service.auto_top_ups.resume() == 1
    assert await attempts(shop) == [(300_000, "paid")]


async def test_repeated_declines_suspend_and_are_told_once(shop: Shop, bank: Bank) -> None:
    bank.says = "declined"
    for number in range(5):
        shop.clock.set(START_US + number * HOUR_US)
        await shop.service.auto_top_ups.charge_due()
    assert await attempts(shop) == [(300_000, "declined")] * 3
    assert (await shop.service.auto_top_ups.load("vn", "acme")).terms.suspended_reason == "declined"
    suspended = [event for event in await shop.events() if event["type"] == "auto_top_up.suspended"]
    assert [(event["id"], event["data"]["reason"]) for event in suspended] == [
        ("auto_top_up_suspended/vn/acme/1", "declined")
    ]
    # Agreeing anew lets it go on.
    bank.says = "paid"
    await shop.service.auto_top_ups.agree("vn", "acme", TERMS, CONSENT)
    shop.clock.set(START_US + 6 * HOUR_US)
    assert await shop.service.auto_top_ups.charge_due() == 1


async def test_a_bank_that_wants_the_customer_suspends_and_leads_to_a_page(shop: Shop, bank: Bank) -> None:
    bank.says = "needs customer"
    await shop.service.auto_top_ups.charge_due()
    assert await attempts(shop) == [(300_000, "needs_customer")]
    [suspended] = [event for event in await shop.events() if event["type"] == "auto_top_up.suspended"]
    assert suspended["data"]["reason"] == "authentication_required"
    token = suspended["data"]["action_url"].rpartition("/orders/")[2]
    order = await shop.service.topups.find_page(token)
    assert order is not None
    assert (order.state, order.amount_micros, order.save_card) == ("pending", 300_000 * UNIT, True)
    assert order.page_url is not None


async def test_an_open_outcome_ends_with_its_order(shop: Shop, bank: Bank) -> None:
    bank.says = "processing"
    await shop.service.auto_top_ups.charge_due()
    assert await attempts(shop) == [(300_000, "open")]
    order = await shop.service.topups.load(bank.charges[0].order_id)
    await shop.receive("evt_late", paid(order, "stripe:pi_late"), order=order)
    assert await shop.service.auto_top_ups.resume() == 1
    assert await attempts(shop) == [(300_000, "paid")]


async def test_consent_is_kept_word_by_word(shop: Shop, bank: Bank) -> None:
    assert bank.charges == []
    rows = await shop.rows("select consent, actor from auto_top_up_consent")
    assert rows == [(CONSENT.text, CONSENT.actor)]


# What is paid counts, whether balance has posted it or not


async def test_what_was_charged_and_is_not_credited_yet_is_not_charged_again(shop: Shop, bank: Bank) -> None:
    """The broker is out for hours: balance answers, and hears of no payment."""
    assert await shop.service.auto_top_ups.charge_due() == 1
    for number in range(1, 4):
        shop.clock.set(START_US + number * HOUR_US)
        assert await shop.service.auto_top_ups.charge_due() == 0
    assert await attempts(shop) == [(300_000, "paid")]
    # Balance has posted it, and all of it was used.
    await shop.acknowledge("stripe:pi_auto_0")
    assert await shop.service.auto_top_ups.charge_due() == 1
    assert len(bank.captured) == 2


async def test_a_payment_by_hand_counts_before_it_is_credited(shop: Shop, bank: Bank) -> None:
    order = await shop.order("120000")
    await shop.apply(paid(order, "stripe:pi_hand"))
    assert await shop.service.auto_top_ups.charge_due() == 0
    shop.balance.balance_micros = -50_000 * UNIT
    assert await shop.service.auto_top_ups.charge_due() == 1
    assert [charge.money for charge in bank.charges] == [vnd(230_000)]


async def test_a_payment_that_comes_before_the_card_is_charged_keeps_it_from_that(shop: Shop, bank: Bank) -> None:
    """Stripe is out when it is decided; the customer pays by hand, and balance does not hear of it."""
    bank.lost = True
    await shop.service.auto_top_ups.charge_due()
    bank.lost = False
    await shop.apply(paid(await shop.order("120000"), "stripe:pi_hand"))
    wait(shop)
    assert await shop.service.auto_top_ups.resume() == 1
    assert bank.captured == {}
    assert await shop.rows("select state, reason from auto_top_up_attempt") == [("withdrawn", "balance")]


async def test_a_payment_that_is_credited_while_balance_is_asked_is_waited_for(
    shop: Shop, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Balance answers what was before it; when the answer is looked at, the payment is no longer under way."""
    await shop.apply(paid(await shop.order("120000"), "stripe:pi_hand"))
    ask = BalanceClient.find_balance

    async def find_balance(client: BalanceClient, region: str, tenant_id: str) -> int | None:
        answer = await ask(client, region, tenant_id)
        await shop.acknowledge("stripe:pi_hand")
        return answer

    monkeypatch.setattr(BalanceClient, "find_balance", find_balance)
    assert await shop.service.auto_top_ups.charge_due() == 0
    assert (await attempts(shop), bank.charges) == ([], [])


# Decided again when it is carried out


async def test_nothing_is_charged_after_the_consent_was_withdrawn(shop: Shop, bank: Bank) -> None:
    """Stripe is out when it is decided; the customer withdraws; Stripe is back."""
    bank.lost = True
    await shop.service.auto_top_ups.charge_due()
    assert await attempts(shop) == [(300_000, "open")]
    await shop.service.auto_top_ups.end("vn", "acme")
    bank.lost = False
    for _ in range(3):
        wait(shop)
        await shop.service.auto_top_ups.resume()
    assert bank.captured == {}
    assert await attempts(shop) == [(300_000, "withdrawn")]
    order = await shop.service.topups.load(bank.charges[0].order_id)
    assert order.state == "failed"
    assert (await shop.told())[-1] == f"failed/{order.order_id}"


@pytest.mark.parametrize("ahead_us", [0, 5 * MINUTE_US])
@pytest.mark.parametrize("word", ["withdrawn", "agreed"])
async def test_a_withdrawn_consent_is_answered_when_no_charge_is_on_its_way(
    shop: Shop, bank: Bank, monkeypatch: pytest.MonkeyPatch, word: str, ahead_us: int
) -> None:
    """A process has decided to charge when the customer withdraws, or agrees to something else, at another one.

    The other's clock may be ahead.
    """
    sent, arrives = asyncio.Event(), asyncio.Event()
    order: list[str] = []

    async def charge(charge: SavedCharge) -> Fact | NeedsCustomer:
        sent.set()
        await arrives.wait()
        order.append("charged")
        return await bank.charge(charge)

    async def speak() -> None:
        if word == "withdrawn":
            await shop.service.auto_top_ups.end("vn", "acme")
        else:
            await shop.service.auto_top_ups.agree("vn", "acme", TERMS, CONSENT)
        order.append(word)

    monkeypatch.setattr(shop.stripe, "charge_saved", charge)
    charging = asyncio.create_task(shop.service.auto_top_ups.charge_due())
    await sent.wait()
    shop.clock.set(shop.clock.now_us() + ahead_us)
    speaking = asyncio.create_task(speak())
    while await shop.rows("select count(*) from auto_top_up where agreement_number > 1 or not enabled") == [(0,)]:
        await asyncio.sleep(0.01)
    assert not (await asyncio.wait([speaking], timeout=0.3))[0]
    arrives.set()
    assert await charging == 1
    await speaking
    assert order == ["charged", word]
    assert await attempts(shop) == [(300_000, "paid")]


@pytest.mark.usefixtures("bank")
async def test_whoever_died_while_charging_holds_up_no_withdrawal_for_long(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def charge(_charge: SavedCharge) -> Fact | NeedsCustomer:
        raise asyncio.CancelledError

    async def nothing(*_arguments: object) -> None:
        """The process is gone before it can note anything."""

    monkeypatch.setattr(shop.stripe, "charge_saved", charge)
    monkeypatch.setattr(auto_top_up, "mark_answered", nothing)
    with pytest.raises(asyncio.CancelledError):
        await shop.service.auto_top_ups.charge_due()
    withdrawing = asyncio.create_task(shop.service.auto_top_ups.end("vn", "acme"))
    assert not (await asyncio.wait([withdrawing], timeout=0.3))[0]
    # Twelve seconds pass, for PostgreSQL's clock alone can say so.
    await shop.rows("update auto_top_up_attempt set charging_until = charging_until - interval '12 s'")
    await withdrawing


async def test_a_process_that_was_frozen_before_it_charged_decides_again(
    shop: Shop, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def freeze(*arguments: Any) -> None:
        await mark_charging(*arguments)
        wait(shop)

    monkeypatch.setattr(auto_top_up, "mark_charging", freeze)
    assert await shop.service.auto_top_ups.charge_due() == 0
    assert (await attempts(shop), bank.charges) == ([(300_000, "open")], [])
    await shop.service.auto_top_ups.end("vn", "acme")
    wait(shop)
    assert await shop.service.auto_top_ups.resume() == 1
    assert (await attempts(shop), bank.charges) == ([(300_000, "withdrawn")], [])


async def test_what_was_never_sent_ends_with_the_consent(shop: Shop, bank: Bank) -> None:
    shop.balance.refuses = True
    await shop.service.auto_top_ups.charge_due()
    assert (await attempts(shop), bank.charges) == ([(300_000, "open")], [])
    await shop.service.auto_top_ups.end("vn", "acme")
    assert await attempts(shop) == [(300_000, "withdrawn")]


async def test_a_new_agreement_is_charged_by_its_own_terms_alone(shop: Shop, bank: Bank) -> None:
    """While Stripe is out a big credit comes, and the customer agrees to much less."""
    bank.lost = True
    await shop.service.auto_top_ups.charge_due()
    shop.balance.balance_micros = 100_000_000 * UNIT
    small = AutoTopUp(20_000 * UNIT, 40_000 * UNIT, 40_000 * UNIT, 40_000 * UNIT)
    await shop.service.auto_top_ups.agree("vn", "acme", small, CONSENT)
    bank.lost = False
    wait(shop)
    assert await shop.service.auto_top_ups.resume() == 1
    assert await shop.service.auto_top_ups.charge_due() == 0
    assert bank.captured == {}
    # What the customer agreed to is still in force: no hour and no cap was used up by what was never charged.
    shop.balance.balance_micros = 0
    assert await shop.service.auto_top_ups.charge_due() == 1
    assert await attempts(shop) == [(300_000, "withdrawn"), (40_000, "paid")]


@pytest.mark.parametrize(
    ("happens", "reason"),
    [("the balance recovers", "balance"), ("the hour passes", "too old"), ("it is suspended", "suspended")],
)
async def test_what_is_no_longer_asked_for_is_not_charged(shop: Shop, bank: Bank, happens: str, reason: str) -> None:
    bank.lost = True
    await shop.service.auto_top_ups.charge_due()
    bank.lost = False
    if happens == "the balance recovers":
        shop.balance.balance_micros = 100_000 * UNIT
    elif happens == "it is suspended":
        async with transaction(shop.service.pool) as connection:
            await suspend(connection, "vn", "acme", "declined", START_US)
    wait(shop, 61 if happens == "the hour passes" else 2)
    assert await shop.service.auto_top_ups.resume() == 1
    assert bank.captured == {}
    assert await shop.rows("select state, reason from auto_top_up_attempt") == [("withdrawn", reason)]


async def test_a_charge_that_happened_is_credited_though_the_consent_is_gone(shop: Shop, bank: Bank) -> None:
    bank.down = 1
    await shop.service.auto_top_ups.charge_due()
    await shop.service.auto_top_ups.end("vn", "acme")
    wait(shop, 25 * 60)
    assert await shop.service.auto_top_ups.resume() == 1
    assert await attempts(shop) == [(300_000, "paid")]
    assert (len(bank.charges), (await shop.told())[-1]) == (1, "captured/stripe:pi_auto_0")


async def test_a_lost_charge_is_sent_again_while_it_is_asked_for(shop: Shop, bank: Bank) -> None:
    bank.lost = True
    await shop.service.auto_top_ups.charge_due()
    bank.lost = False
    wait(shop)
    assert await shop.service.auto_top_ups.resume() == 1
    assert (await attempts(shop), bank.questions, len(bank.charges)) == ([(300_000, "paid")], 1, 2)


async def test_reconciliation_leaves_a_charge_of_open_outcome_to_its_attempt(shop: Shop, bank: Bank) -> None:
    bank.down = 1
    await shop.service.auto_top_ups.charge_due()
    wait(shop, 25 * 60)
    await shop.service.reconciler.reconcile_all(0, None, None)
    order = await shop.service.topups.load(bank.charges[0].order_id)
    assert order.state == "pending"
    assert await shop.service.auto_top_ups.resume() == 1
    assert (await shop.service.topups.load(order.order_id)).state == "paid"


async def test_one_account_that_cannot_be_done_does_not_stand_before_the_others(
    shop: Shop, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tenant in ("alpha", "zulu"):
        order = await shop.order(tenant_id=tenant)
        await shop.apply(paid(order, f"stripe:pi_{tenant}", saved_card=CARD))
        await shop.acknowledge(f"stripe:pi_{tenant}")
        await shop.service.auto_top_ups.agree("vn", tenant, TERMS, CONSENT)

    async def charge(wanted: SavedCharge) -> Fact | NeedsCustomer:
        if wanted.tenant_id == "acme":
            raise ValueError("an answer that nobody foresaw")
        return await bank.charge(wanted)

    monkeypatch.setattr(shop.stripe, "charge_saved", charge)
    assert await shop.service.auto_top_ups.charge_due() == 2
    assert await shop.rows("select kind, item, attempts from set_aside") == [("auto-top-up", "vn/acme", 1)]
    assert await shop.service.auto_top_ups.resume() == 0
    monkeypatch.setattr(shop.stripe, "charge_saved", bank.charge)
    wait(shop)
    assert await shop.service.auto_top_ups.resume() == 1
    assert await shop.rows("select count(*) from set_aside") == [(0,)]


async def test_many_open_outcomes_do_not_stand_before_a_new_one(
    shop: Shop, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.payment.app.auto_top_up.BATCH", 1)
    bank.says = "processing"
    await shop.service.auto_top_ups.charge_due()
    order = await shop.order(tenant_id="zulu")
    await shop.apply(paid(order, "stripe:pi_zulu", saved_card=CARD))
    await shop.acknowledge("stripe:pi_zulu")
    await shop.service.auto_top_ups.agree("vn", "zulu", TERMS, CONSENT)
    bank.lost = True
    await shop.service.auto_top_ups.charge_due()
    bank.lost, bank.says = False, "paid"
    bank.captured.clear()
    wait(shop)
    assert await shop.service.auto_top_ups.resume() == 2


async def test_an_order_that_is_named_like_an_attempt_is_never_charged_by_itself(shop: Shop, bank: Bank) -> None:
    """A customer opens a page for five million under the key of the next attempt, and leaves it; the cap is 900,000."""
    wish = shop.request("5000000", idempotency_key="auto-top-up/1")
    with pytest.raises(Refusal, match="idempotency-key-reserved"):
        await shop.service.topups.create_for_customer(wish)
    # Were it there all the same, it is not taken for the attempt's order.
    named = await shop.service.topups.create(wish)
    assert await shop.service.auto_top_ups.charge_due() == 0
    assert (bank.charges, await attempts(shop), await shop.state(named)) == ([], [], "pending")
    assert await shop.rows("select kind, item from set_aside") == [("auto-top-up", "vn/acme")]


REVERSALS: dict[str, Fact] = {
    "refunded": Refunded("stripe:pi_first", "stripe:re_1", vnd(300_000), "succeeded"),
    "disputed": Disputed("stripe:pi_first", "stripe:dp_1", vnd(300_000), withdrawn=True),
}


@pytest.mark.parametrize("reason", REVERSALS)
async def test_who_got_his_money_back_is_not_charged_again_before_he_agrees(
    shop: Shop, bank: Bank, reason: str
) -> None:
    wait(shop)
    await shop.apply(REVERSALS[reason])
    shop.balance.balance_micros = 0
    assert await shop.service.auto_top_ups.charge_due() == 0
    assert bank.charges == []
    agreement = await shop.service.auto_top_ups.load("vn", "acme")
    assert agreement.terms.suspended_reason == reason
    wait(shop, 90)
    assert await shop.service.auto_top_ups.charge_due() == 0
    assert [name for name in await shop.told() if "suspended" in name] == ["auto_top_up_suspended/vn/acme/1"]
    await shop.service.auto_top_ups.agree("vn", "acme", TERMS, CONSENT)
    assert await shop.service.auto_top_ups.charge_due() == 1


@pytest.mark.parametrize("reason", REVERSALS)
async def test_a_charge_that_was_decided_before_the_reversal_is_not_sent(shop: Shop, bank: Bank, reason: str) -> None:
    bank.lost = True
    await shop.service.auto_top_ups.charge_due()
    bank.lost = False
    wait(shop)
    await shop.apply(REVERSALS[reason])
    assert await shop.service.auto_top_ups.resume() == 1
    assert bank.captured == {}
    assert await shop.rows("select state, reason from auto_top_up_attempt") == [("withdrawn", "suspended")]


@pytest.mark.parametrize(
    "fact",
    [
        RefundFailed("stripe:pi_first", "stripe:re_1", vnd(300_000), "declined"),
        DisputeClosed("stripe:pi_first", "stripe:dp_1", "won", vnd(300_000), withdrawn=False),
    ],
    ids=["refund failed", "dispute won"],
)
async def test_a_reversal_that_came_to_nothing_suspends_nothing(shop: Shop, bank: Bank, fact: Fact) -> None:
    wait(shop)
    await shop.apply(fact)
    shop.balance.balance_micros = 0
    assert await shop.service.auto_top_ups.charge_due() == 1
    assert len(bank.charges) == 1


async def test_no_card_is_charged_for_what_a_grant_is_about_to_pay(shop: Shop, bank: Bank) -> None:
    shop.balance.balance_micros, shop.balance.working_out = 0, True
    assert await shop.service.auto_top_ups.charge_due() == 0
    assert bank.charges == []
    shop.balance.working_out = False
    assert await shop.service.auto_top_ups.charge_due() == 1
