"""The one way by which anything that a provider says takes effect: `apply_facts`, in the caller's transaction.

Lock order: inbox events, payments (by id, also those without a row), orders, outbox heads; ascending within each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from services.payment.events import Account, payment_message
from services.payment.providers import ProviderName
from services.payment.rules.decision import Capture, Decision, OrderFailed, Outcome, Queued, Told
from services.payment.rules.facts import Attempted, Declined, Expired, Fact, Paid, PaymentFact
from services.payment.rules.orders import decide_order_fact, decide_paid, follow_uncredited, settle_credit
from services.payment.rules.reversals import Payment, decide_reversal, derive_state
from services.payment.store.early import (
    EARLY_KIND,
    EarlyFact,
    delete_early_fact,
    insert_early_fact,
    load_early_facts,
)
from services.payment.store.orders import (
    Change,
    OrderOfPayment,
    StoredOrder,
    lock_order,
    lock_orders_of_payments,
    update_orders,
)
from services.payment.store.payments import (
    Holder,
    NewPayment,
    StoredPayment,
    complete_payment,
    credit_payment,
    insert_payments,
    load_payment,
    lock_payment_ids,
    tie_payment,
    upsert_dispute,
    upsert_refund,
)
from services.payment.store.queue import insert_items, settle_credited, settle_refunded
from shared.clock import Clock
from shared.db import Connection, is_transient, past_races
from shared.outbox import Message, append_messages
from shared.set_aside import describe_error, release, set_aside

# What is answered for several facts at once: the first of these that became of any.
_WEIGHT: tuple[Outcome, ...] = ("mismatched", "queued", "unknown", "applied", "early", "repeated", "ignored")


@dataclass(frozen=True, slots=True)
class Cause:
    """Why facts are applied, as order transitions tell it: "webhook evt_1", "reconciliation", "settlement …"."""

    provider: ProviderName
    name: str


@dataclass(frozen=True, slots=True)
class Telling:
    """Facts told at once. With `wait_for_order`, one of an order that is not known is "unknown" and nothing is done.

    `region` is the one that the provider's copy of our marks names: what is of another region is somebody else's.
    """

    facts: Sequence[Fact]
    cause: Cause
    wait_for_order: bool = False
    region: str | None = None

    def is_of(self, region: str | None) -> bool:
        return self.region is None or region is None or self.region == region


def payment_ids_of(facts: Sequence[Fact]) -> list[str]:
    """The payments that facts are about, to be locked before anything is read."""
    return [fact.payment_id for fact in facts if isinstance(fact, Paid | PaymentFact)]


class FactApplier:
    """Decides facts by the rules and saves what follows, with the events that tell it.

    One that does not `tell` is for what was told already, by a database that was set back since.
    """

    def __init__(self, clock: Clock, shards: int, *, tell: bool = True) -> None:
        self._clock = clock
        self._shards = shards
        self._tells = tell

    async def apply_facts(self, connection: Connection, facts: Sequence[Fact], cause: Cause) -> Outcome:
        """Apply facts, each once however often it is told; answer what became of them."""
        await lock_payment_ids(connection, payment_ids_of(facts))
        (outcome,) = await self.apply_tellings(connection, [Telling(facts, cause)])
        return outcome

    async def apply_tellings(self, connection: Connection, tellings: Sequence[Telling]) -> list[Outcome]:
        """Apply what was told, and answer what became of each telling; the caller holds the ids of all payments.

        Where there are several, each is one success or nothing, and no two are about one order or payment.
        """
        work = self._begin(connection)
        outcomes = await work.apply_all(tellings)
        await append_messages(connection, work.messages, work.now_us)
        return outcomes

    async def apply_early(self, connection: Connection, payment_id: str) -> None:
        """Try again what was told of a payment before it was known, and could not be applied then."""
        await lock_payment_ids(connection, [payment_id])
        work = self._begin(connection)
        await work.apply_early(payment_id, "tried again")
        await append_messages(connection, work.messages, work.now_us)

    async def credit_kept(
        self,
        connection: Connection,
        stored: StoredPayment,
        order: StoredOrder | None,
        holder: Holder,
        credit_micros: int,
        cause: Cause,
    ) -> None:
        """Credit, by an operator's word, a payment that nothing was credited for; the caller locked both."""
        payment = stored.payment
        decision = settle_credit(
            None if order is None else order.order, payment.payment_id, payment.paid, credit_micros
        )
        await credit_payment(connection, payment.payment_id, holder, credit_micros)
        work = self._begin(connection)
        if order is not None:
            await work.save_order(order, decision, cause.name)
        account = Account(holder.region, holder.tenant_id, stored.provider, holder.account_currency, stored.order_id)
        work.tell(account, decision.told)
        await append_messages(connection, work.messages, work.now_us)

    def _begin(self, connection: Connection) -> "_Work":
        return _Work(connection, self._clock.now_us(), self._shards, tells=self._tells)

    @property
    def silent(self) -> "FactApplier":
        """The same, for what was told already."""
        return FactApplier(self._clock, self._shards, tell=False)

    async def take_payment(self, connection: Connection, order_id: str, payment_id: str) -> None:
        """Give an order that is known again its payment; the caller holds the payment's id.

        What is credited stays so. What waits for an operator, as nobody knew its order, is credited as was agreed now.
        """
        order, stored = await lock_order(connection, order_id), await load_payment(connection, payment_id)
        assert order is not None
        assert stored is not None, "payments are never deleted"
        payment = stored.payment
        if order.payment_id is not None or (payment.credit_micros is None and not _is_as_agreed(payment, order)):
            return
        await tie_payment(connection, payment_id, order_id)
        cause = Cause(order.provider, "its payment came before it was known again")
        if payment.credit_micros is None:
            holder = Holder(order.region, order.tenant_id, order.account_currency)
            await self.credit_kept(connection, stored, order, holder, order.credit_micros, cause)
            await settle_credited(connection, payment_id, order.credit_micros, cause.name, self._clock.now_us())
            return
        work = _Work(connection, self._clock.now_us(), self._shards, tells=False)
        await work.take_payment(order, payment, cause.name)

    async def change_order(self, connection: Connection, order: StoredOrder, decision: Decision, cause: Cause) -> None:
        """Save what was decided of a locked order otherwise, and tell it."""
        work = self._begin(connection)
        await work.save_order(order, decision, cause.name)
        work.tell(_account_of(order), decision.told)
        await append_messages(connection, work.messages, work.now_us)


@dataclass(frozen=True, slots=True)
class _Success:
    """A success with its cause, what was found for it, and what is decided of it."""

    fact: Paid
    cause: Cause
    found: OrderOfPayment
    decision: Decision

    @property
    def order_id(self) -> str | None:
        return None if self.found.order is None else self.found.order.order_id

    @property
    def payment(self) -> NewPayment:
        assert self.decision.capture is not None, "only what is captured has a row"
        order = self.found.order
        holder = None if order is None else Holder(order.region, order.tenant_id, order.account_currency)
        return NewPayment(self.fact, self.cause.provider, self.order_id, holder, self.decision.capture.credit_micros)


class _Work:
    """One application of what was told: its connection, instant, and the messages so far."""

    def __init__(self, connection: Connection, now_us: int, shards: int, *, tells: bool) -> None:
        self._connection = connection
        self._shards = shards
        self._tells = tells
        self.now_us = now_us
        self.messages: list[Message] = []

    async def apply_all(self, tellings: Sequence[Telling]) -> list[Outcome]:
        if len(tellings) == 1:
            return [await self._apply(tellings[0])]
        successes = {
            number: (fact, telling)
            for number, telling in enumerate(tellings)
            for fact in telling.facts
            if isinstance(fact, Paid)
        }
        outcomes = dict(zip(successes, await self._apply_successes(list(successes.values())), strict=True))
        return [outcomes.get(number, "ignored") for number in range(len(tellings))]

    async def _apply(self, telling: Telling) -> Outcome:
        outcomes: set[Outcome] = set()
        for fact in telling.facts:
            outcome = await self._apply_fact(fact, telling)
            if outcome == "unknown" and telling.wait_for_order:
                return outcome
            outcomes.add(outcome)
        return next((outcome for outcome in _WEIGHT if outcome in outcomes), "ignored")

    async def _apply_fact(self, fact: Fact, telling: Telling) -> Outcome:
        if isinstance(fact, Paid):
            (outcome,) = await self._apply_successes([(fact, telling)])
            return outcome
        if isinstance(fact, PaymentFact):
            return await self._apply_reversal(fact, telling)
        order = await lock_order(self._connection, fact.order_id)
        if order is None:
            return await self._queue_unknown(fact, wait_for_order=telling.wait_for_order)
        if not telling.is_of(order.region):
            return "ignored"
        decision = decide_order_fact(order.order, fact)
        await self.save_order(order, decision, telling.cause.name)
        self.tell(_account_of(order), decision.told)
        return decision.outcome

    async def _apply_successes(self, successes: Sequence[tuple[Paid, Telling]]) -> list[Outcome]:
        """Apply successes of different orders and payments, in as few statements as one."""
        named = [(fact.order_id, fact.payment_id) for fact, _ in successes]
        found = await lock_orders_of_payments(self._connection, named)
        decided = [_decide(fact, telling, of) for (fact, telling), of in zip(successes, found, strict=True)]
        for item in decided:
            if item.found.payment_known and item.decision.outcome != "ignored":
                await complete_payment(self._connection, item.fact)
        captured = [item for item in decided if item.decision.capture is not None]
        await insert_payments(self._connection, [item.payment for item in captured], self.now_us)
        for item in captured:
            await insert_items(self._connection, item.decision.queued, item.order_id, self.now_us)
        await self._save_orders(
            [(item.found.order, item.decision, item.cause.name) for item in captured if item.found.order is not None]
        )
        for item in captured:
            if item.found.order is not None:
                self.tell(_account_of(item.found.order), item.decision.told)
        for item in captured:
            # What waits was told by nobody: without telling it is left to those who try again.
            if item.found.has_early_facts and self._tells:
                await self.apply_early(item.fact.payment_id, f"kept until {item.cause.name}")
        return [item.decision.outcome for item in decided]

    async def _queue_unknown(self, fact: Attempted | Declined | Expired, *, wait_for_order: bool) -> Outcome:
        if not wait_for_order:
            detail = f"{type(fact).__name__} for the order {fact.order_id}, which is not known here"
            item = Queued("unknown-order", f"{fact.order_id}/{type(fact).__name__}", None, None, detail)
            await insert_items(self._connection, [item], None, self.now_us)
        return "unknown"

    async def apply_early(self, payment_id: str, why: str) -> None:
        """Apply what waited for a payment. A fact that can't be applied is set aside: it must not cost the payment."""
        for early in await load_early_facts(self._connection, payment_id):
            told = len(self.messages)
            try:
                await past_races(partial(self._apply_one_early, early, why))
            except Exception as error:
                if is_transient(error):
                    raise
                del self.messages[told:]
                reason = describe_error(error)
                await set_aside(self._connection, EARLY_KIND, early.fact_id, reason, self.now_us)
            else:
                await release(self._connection, EARLY_KIND, [early.fact_id])

    async def _apply_one_early(self, early: EarlyFact, why: str) -> None:
        async with self._connection.transaction():
            cause = Cause(early.provider, f"{early.cause}, {why}"[:500])
            fact = early.read()
            await self._apply_reversal(fact, Telling((fact,), cause))
            await delete_early_fact(self._connection, early.fact_id)

    async def _apply_reversal(self, fact: PaymentFact, telling: Telling) -> Outcome:
        cause = telling.cause.name
        stored = await load_payment(self._connection, fact.payment_id)
        if stored is None:
            await insert_early_fact(self._connection, fact, cause, self.now_us)
            return "early"
        if not telling.is_of(stored.region):
            return "ignored"
        order = None if stored.order_id is None else await lock_order(self._connection, stored.order_id)
        decision = decide_reversal(stored.payment, fact)
        after = await self._save_reversal(stored.payment, decision)
        await insert_items(self._connection, decision.queued, stored.order_id, self.now_us)
        if decision.told:
            self.tell(_account_of_payment(stored), decision.told)
        if after.credit_micros is None and after.refunded_micros >= after.paid.amount_micros:
            await settle_refunded(self._connection, after.payment_id, cause, self.now_us)
        if order is not None:
            await self._follow(order, after, cause)
        return decision.outcome

    async def _save_reversal(self, payment: Payment, decision: Decision) -> Payment:
        if decision.refund is not None:
            after = payment.with_refund(decision.refund)
            taken_micros = max(0, after.reversed_micros - payment.reversed_micros)
            await upsert_refund(self._connection, payment.payment_id, decision.refund, taken_micros, self.now_us)
            return after
        if decision.dispute is not None:
            await upsert_dispute(self._connection, payment.payment_id, decision.dispute, self.now_us)
            return payment.with_dispute(decision.dispute)
        return payment

    async def _follow(self, order: StoredOrder, payment: Payment, cause: str) -> None:
        """Move the order to where its payment stands now."""
        if order.payment_id == payment.payment_id:
            decision = Decision("applied", state=derive_state(payment))
        elif payment.credit_micros is None:
            decision = follow_uncredited(order.order, payment)
        else:
            return
        await self.save_order(order, decision, cause)
        self.tell(_account_of(order), decision.told)

    async def take_payment(self, order: StoredOrder, payment: Payment, cause: str) -> None:
        """Let a credited payment be the one of its order, and the order stand where that stands."""
        capture = Capture(payment.payment_id, payment.credit_micros)
        await self.save_order(order, Decision("applied", state="paid", attempted=True, capture=capture), cause)
        taken = await lock_order(self._connection, order.order_id)
        assert taken is not None
        await self._follow(taken, payment, cause)

    async def save_order(self, order: StoredOrder, decision: Decision, cause: str) -> None:
        """Save what a decision changes of its locked order."""
        await self._save_orders([(order, decision, cause)])

    async def _save_orders(self, decided: Sequence[tuple[StoredOrder, Decision, str]]) -> None:
        changes = [(order, _change(order, decision), cause) for order, decision, cause in decided]
        changed = [
            (order, change, cause)
            for order, change, cause in changes
            if change != Change(order.state, order.attempted, order.failure_told, order.payment_id)
        ]
        await update_orders(self._connection, changed, self.now_us)

    def tell(self, account: Account, told: Sequence[Told]) -> None:
        if self._tells:
            self.messages += [payment_message(account, item, self.now_us, self._shards) for item in told]


def _decide(fact: Paid, telling: Telling, found: OrderOfPayment) -> _Success:
    order = found.order
    if order is not None and not telling.is_of(order.region):
        return _Success(fact, telling.cause, found, Decision("ignored"))
    if order is None and not found.payment_known and telling.wait_for_order:
        return _Success(fact, telling.cause, found, Decision("unknown"))
    decision = decide_paid(None if order is None else order.order, fact, known=found.payment_known)
    return _Success(fact, telling.cause, found, decision)


def _change(order: StoredOrder, decision: Decision) -> Change:
    """How an order stands after a decision."""
    capture = decision.capture
    is_main = capture is not None and capture.credit_micros is not None and decision.state == "paid"
    return Change(
        decision.state or order.state,
        order.attempted or decision.attempted,
        order.failure_told or any(isinstance(item, OrderFailed) for item in decision.told),
        capture.payment_id if is_main and capture is not None else order.payment_id,
    )


def _is_as_agreed(payment: Payment, order: StoredOrder) -> bool:
    """Whether a payment that nobody was credited for is what an order asks for, and nothing of it went back."""
    return payment.paid == order.money and not payment.refunds and not payment.disputes


def _account_of(order: StoredOrder) -> Account:
    return Account(order.region, order.tenant_id, order.provider, order.account_currency, order.order_id)


def _account_of_payment(stored: StoredPayment) -> Account:
    """Whose credit a reversal moves; what is credited has an account."""
    assert stored.region is not None
    assert stored.tenant_id is not None
    assert stored.account_currency is not None
    return Account(stored.region, stored.tenant_id, stored.provider, stored.account_currency, stored.order_id)
