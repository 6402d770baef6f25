"""Plays a story on the world: customers, the network, operators and banks, until everybody is asked."""

import contextlib
from dataclasses import replace as changed
from typing import Any

from services.payment.app.refunds import RefundWish
from services.payment.providers import ProviderName
from services.payment.rules.facts import (
    Attempted,
    Declined,
    DisputeClosed,
    Disputed,
    Fact,
    Money,
    Paid,
    Refunded,
    RefundFailed,
)
from shared.clock import MINUTE_US
from shared.errors import Refusal, TransientFault
from tests.payment.lives import PART, PRICE, Life, Step
from tests.payment.shop import vnd
from tests.payment.world import Truth, World, crash_at


class Story:
    def __init__(self, world: World, name: str, providers: list[ProviderName]) -> None:
        self._world = world
        self._service = world.shop.service
        self.name = name
        self.met: set[str] = set()
        self.lives = [
            Life(f"{name}-{index}", world.banks[provider]) for index, provider in enumerate(providers, start=1)
        ]

    async def play(self, step: Step) -> None:
        """One step; what makes no sense now does nothing or is refused, as with people."""
        life = self.lives[step.life]
        with crash_at(step.crash) as met, contextlib.suppress(Refusal, TransientFault):
            if life.order is None and step.kind not in ("click", "to balance", "to payment", "time"):
                return
            await getattr(self, "_" + step.kind.replace(" ", "_"))(life)
        self.met.update(met)

    # A customer

    async def _click(self, life: Life) -> None:
        request = self._world.shop.request(
            "250000", tenant_id=life.tenant, provider=life.bank.name, idempotency_key=life.tenant
        )
        committed = await self._service.topups.commit_order(request)
        assert life.order is None or committed.order_id == life.order.order_id, "a repeated click made another order"
        life.order = committed
        await self._service.topups.create(request)

    def _tell(self, life: Life, fact: Fact) -> None:
        life.happened += 1
        life.waiting.append((f"{life.tenant}:{life.happened}", fact))

    def _is_open(self, life: Life) -> bool:
        """Whether there is a page that takes money. VNPay can't close one."""
        assert life.order is not None
        opened = any(page.order_id == life.order.order_id for page in life.bank.opened)
        closed = life.bank.name == "stripe" and life.order.order_id in life.bank.expired
        return opened and not closed and life.truth is None

    async def _capture(self, life: Life, money: Money) -> None:
        assert life.order is not None
        if self._is_open(life):
            now_us = self._world.shop.clock.now_us()
            paid = Paid(life.order.order_id, f"{life.bank.name}:pi_{life.tenant}", money, now_us, None, "ref")
            life.bank.truths[life.order.order_id] = Truth(paid)
            self._tell(life, paid)

    async def _pay(self, life: Life) -> None:
        await self._capture(life, PRICE)

    async def _pay_another_amount(self, life: Life) -> None:
        await self._capture(life, PART)

    async def _decline(self, life: Life) -> None:
        assert life.order is not None
        if self._is_open(life):
            self._tell(life, Declined(life.order.order_id, "declined", final=life.bank.name == "vnpay"))

    async def _attempt(self, life: Life) -> None:
        assert life.order is not None
        if self._is_open(life):
            self._tell(life, Attempted(life.order.order_id, "processing"))

    async def _return_page(self, life: Life) -> None:
        assert life.order is not None
        await self._service.topups.load(life.order.order_id)

    # The network

    async def _receive(self, life: Life, event_id: str, fact: Fact) -> None:
        answer = await self._world.shop.receive(event_id, fact, order=life.order, provider=life.bank.name)
        assert answer.completed
        # What was answered is in: nobody will send it again, and nobody has to be asked.
        if isinstance(fact, Paid):
            query = "select count(*) from payment where payment_id = $1"
            assert await self._world.shop.rows(query, fact.payment_id) == [(1,)], "a callback had no effect"

    async def _deliver_at(self, life: Life, place: int) -> None:
        if life.waiting:
            event = life.waiting[place]
            await self._receive(life, *event)
            life.delivered.append(life.waiting.pop(place))

    async def _deliver(self, life: Life) -> None:
        await self._deliver_at(life, 0)

    async def _deliver_last(self, life: Life) -> None:
        await self._deliver_at(life, -1)

    async def _repeat(self, life: Life) -> None:
        if life.delivered:
            await self._receive(life, *life.delivered[0])

    async def _lose(self, life: Life) -> None:
        if life.waiting:
            life.waiting.pop(0)

    async def _to_balance(self, _life: Life) -> None:
        await self._world.carry_to_balance(self.name)

    async def _to_payment(self, _life: Life) -> None:
        await self._world.carry_to_payment(self.name)

    # Operators and time

    async def _refund(self, life: Life, wish: RefundWish) -> None:
        truth = life.truth
        assert truth is not None
        known = set(truth.refunds)
        try:
            await self._service.refunds.refund(wish)
        finally:
            made = truth.refunds.keys() - known
            life.wishes.setdefault(wish, set()).update(made)
            for refund_id in made:
                self._tell(life, truth.refunds[refund_id])
        assert len(life.wishes[wish]) <= 1, "one wish made two refunds"

    async def _refund_some(self, life: Life, amount_micros: int | None) -> None:
        if life.truth is not None:
            key = f"wish-{len(life.wishes)}"
            await self._refund(life, RefundWish(life.truth.paid.payment_id, amount_micros, "asked for", "kim", key))

    async def _refund_again(self, life: Life) -> None:
        if life.wishes:
            await self._refund(life, list(life.wishes)[-1])

    async def _refund_part(self, life: Life) -> None:
        await self._refund_some(life, 30_000_000_000)

    async def _refund_all(self, life: Life) -> None:
        await self._refund_some(life, None)

    async def _reconcile(self, life: Life) -> None:
        assert life.order is not None
        await self._service.reconciler.reconcile(await self._service.topups.load(life.order.order_id))

    async def _time(self, _life: Life) -> None:
        """After two of these an order that nobody paid is over."""
        clock = self._world.shop.clock
        clock.set(clock.now_us() + 20 * MINUTE_US)

    async def _provider_down(self, life: Life) -> None:
        life.bank.down = not life.bank.down

    # A bank

    def _change_refund(self, life: Life, refund_id: str, fact: Refunded | RefundFailed) -> None:
        assert life.truth is not None
        life.truth.refunds[refund_id] = fact
        self._tell(life, fact)

    async def _refund_elsewhere(self, life: Life) -> None:
        truth = life.truth
        if truth is None:
            return
        left_micros = min(20_000_000_000, truth.paid.money.amount_micros - truth.gone_micros)
        if left_micros > 0:
            refund_id = f"{life.bank.name}:re_{life.tenant}_{len(truth.refunds)}"
            money = Money(left_micros, "VND")
            self._change_refund(life, refund_id, Refunded(truth.paid.payment_id, refund_id, money, "pending"))

    async def _settle_refund(self, life: Life) -> None:
        for refund_id, fact in [] if life.truth is None else list(life.truth.refunds.items()):
            if isinstance(fact, Refunded) and fact.state == "pending":
                self._change_refund(life, refund_id, changed(fact, state="succeeded"))

    async def _fail_refund(self, life: Life) -> None:
        for refund_id, fact in [] if life.truth is None else list(life.truth.refunds.items())[:1]:
            if isinstance(fact, Refunded):
                failed = RefundFailed(fact.payment_id, refund_id, fact.money, "lost_or_stolen_card")
                self._change_refund(life, refund_id, failed)

    def _change_dispute(self, life: Life, fact: Disputed | DisputeClosed) -> None:
        assert life.truth is not None
        life.truth.disputes[fact.dispute_id] = fact
        self._tell(life, fact)

    def _open_disputes(self, life: Life) -> list[Disputed]:
        found = [] if life.truth is None else list(life.truth.disputes.values())
        return [item for item in found if isinstance(item, Disputed)]

    def _contest(self, life: Life, money: Money) -> None:
        truth = life.truth
        if truth is not None and life.bank.name == "stripe":
            dispute_id = f"stripe:dp_{life.tenant}_{len(truth.disputes)}"
            self._change_dispute(life, Disputed(truth.paid.payment_id, dispute_id, money, withdrawn=False))

    async def _dispute_part(self, life: Life) -> None:
        self._contest(life, vnd(60_000))

    async def _dispute_all(self, life: Life) -> None:
        if life.truth is not None:
            self._contest(life, life.truth.paid.money)

    async def _withdraw(self, life: Life) -> None:
        for item in self._open_disputes(life):
            if not item.withdrawn:
                self._change_dispute(life, changed(item, withdrawn=True))

    async def _win(self, life: Life) -> None:
        for item in self._open_disputes(life):
            closed = DisputeClosed(item.payment_id, item.dispute_id, "won", item.money, withdrawn=False)
            self._change_dispute(life, closed)

    async def _lose_dispute(self, life: Life) -> None:
        for item in self._open_disputes(life):
            closed = DisputeClosed(item.payment_id, item.dispute_id, "lost", item.money, withdrawn=True)
            self._change_dispute(life, closed)

    # The end

    async def end(self) -> None:
        """Bad luck ends: what waits is delivered, latest first; everybody is asked; then nothing differs any more."""
        for life in self.lives:
            life.bank.down = False
            while life.waiting:
                await self._deliver_last(life)
        clock = self._world.shop.clock
        clock.set(clock.now_us() + 2 * MINUTE_US)
        await self._service.refunds.resume()
        differences: list[Any] = []
        for _ in range(3):
            differences = [item for life in self.lives for item in await self._ask_all(life)]
            await self._world.carry_to_balance(self.name)
            await self._world.carry_to_payment(self.name)
        assert differences == []

    async def _ask_all(self, life: Life) -> list[Any]:
        _, found = await self._service.reconciler.reconcile_all(0, "vn", life.tenant)
        return found
