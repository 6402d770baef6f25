"""The one way by which anything that a provider says takes effect: `apply_facts`, in the caller's transaction.

Lock order: inbox event, payments (by id, ascending, also those without a row), orders, outbox heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.payment.events import Account, payment_message
from services.payment.providers import ProviderName
from services.payment.rules.decision import Decision, OrderFailed, Outcome, Queued, Told
from services.payment.rules.facts import Attempted, Declined, Expired, Fact, Paid, PaymentFact
from services.payment.rules.orders import decide_order_fact, decide_paid, follow_uncredited, settle_credit
from services.payment.rules.reversals import Payment, decide_reversal, derive_state
from services.payment.store.early import insert_early_fact, take_early_facts
from services.payment.store.orders import Change, StoredOrder, lock_order, lock_order_of_payment, update_order
from services.payment.store.payments import (
    Holder,
    StoredPayment,
    complete_payment,
    credit_payment,
    insert_payment,
    load_payment,
    lock_payment_ids,
    upsert_dispute,
    upsert_refund,
)
from services.payment.store.queue import insert_items, settle_refunded
from shared.clock import Clock
from shared.db import Connection
from shared.outbox import Message, append_messages

# What is answered for several facts at once: the first of these that became of any.
_WEIGHT: tuple[Outcome, ...] = ("mismatched", "queued", "unknown", "applied", "early", "repeated", "ignored")


@dataclass(frozen=True, slots=True)
class Cause:
    """Why facts are applied, as order transitions tell it: "webhook evt_1", "reconciliation", "settlement …"."""

    provider: ProviderName
    name: str


def payment_ids_of(facts: Sequence[Fact]) -> list[str]:
    """The payments that facts are about, to be locked before anything is read."""
    return [fact.payment_id for fact in facts if isinstance(fact, Paid | PaymentFact)]


class FactApplier:
    """Decides facts by the rules and saves what follows, with the events that tell it."""

    def __init__(self, clock: Clock, shards: int) -> None:
        self._clock = clock
        self._shards = shards

    async def apply_facts(
        self,
        connection: Connection,
        facts: Sequence[Fact],
        cause: Cause,
        *,
        wait_for_order: bool = False,
        locked: bool = False,
    ) -> Outcome:
        """Apply facts, each once however often it is told; answer what became of them.

        With `wait_for_order`, a fact of an order that is not known answers "unknown" and nothing is applied. `locked`:
        the caller holds the ids of `payment_ids_of(facts)` already.
        """
        if not locked:
            await lock_payment_ids(connection, payment_ids_of(facts))
        work = _Work(connection, cause, self._clock.now_us(), self._shards, wait_for_order=wait_for_order)
        outcomes: set[Outcome] = set()
        for fact in facts:
            outcome = await work.apply(fact)
            if outcome == "unknown" and wait_for_order:
                return outcome
            outcomes.add(outcome)
        await append_messages(connection, work.messages, work.now_us)
        return next((outcome for outcome in _WEIGHT if outcome in outcomes), "ignored")

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
        work = _Work(connection, cause, self._clock.now_us(), self._shards, wait_for_order=False)
        if order is not None:
            await work.save_order(order, decision)
        account = Account(holder.region, holder.tenant_id, stored.provider, holder.account_currency, stored.order_id)
        work.tell(account, decision.told)
        await append_messages(connection, work.messages, work.now_us)

    async def change_order(self, connection: Connection, order: StoredOrder, decision: Decision, cause: Cause) -> None:
        """Save what was decided of a locked order otherwise, and tell it."""
        work = _Work(connection, cause, self._clock.now_us(), self._shards, wait_for_order=False)
        await work.save_order(order, decision)
        work.tell(_account_of(order), decision.told)
        await append_messages(connection, work.messages, work.now_us)


class _Work:
    """One application of facts: its connection, instant, cause, and the messages so far."""

    def __init__(self, connection: Connection, cause: Cause, now_us: int, shards: int, *, wait_for_order: bool) -> None:
        self._connection = connection
        self._cause = cause
        self._shards = shards
        self._wait_for_order = wait_for_order
        self.now_us = now_us
        self.messages: list[Message] = []

    async def apply(self, fact: Fact) -> Outcome:
        if isinstance(fact, Paid):
            return await self._apply_paid(fact)
        if isinstance(fact, PaymentFact):
            return await self._apply_reversal(fact, self._cause.name)
        order = await lock_order(self._connection, fact.order_id)
        if order is None:
            return await self._queue_unknown(fact)
        decision = decide_order_fact(order.order, fact)
        await self.save_order(order, decision)
        self.tell(_account_of(order), decision.told)
        return decision.outcome

    async def _apply_paid(self, fact: Paid) -> Outcome:
        found = await lock_order_of_payment(self._connection, fact.order_id, fact.payment_id)
        order = found.order
        if order is None and not found.payment_known and self._wait_for_order:
            return "unknown"
        decision = decide_paid(None if order is None else order.order, fact, known=found.payment_known)
        if decision.capture is None:
            await complete_payment(self._connection, fact)
            return decision.outcome
        provider = self._cause.provider
        holder = None if order is None else Holder(order.region, order.tenant_id, order.account_currency)
        credit_micros = decision.capture.credit_micros
        order_id = None if order is None else order.order_id
        await insert_payment(self._connection, fact, provider, order_id, holder, credit_micros, self.now_us)
        await insert_items(self._connection, decision.queued, order_id, self.now_us)
        if order is not None:
            await self.save_order(order, decision)
            self.tell(_account_of(order), decision.told)
        if found.has_early_facts:
            for early, cause in await take_early_facts(self._connection, fact.payment_id):
                await self._apply_reversal(early, f"{cause}, kept until {self._cause.name}")
        return decision.outcome

    async def _queue_unknown(self, fact: Attempted | Declined | Expired) -> Outcome:
        if not self._wait_for_order:
            detail = f"{type(fact).__name__} for the order {fact.order_id}, which is not known here"
            item = Queued("unknown-order", f"{fact.order_id}/{type(fact).__name__}", None, None, detail)
            await insert_items(self._connection, [item], None, self.now_us)
        return "unknown"

    async def _apply_reversal(self, fact: PaymentFact, cause: str) -> Outcome:
        stored = await load_payment(self._connection, fact.payment_id)
        if stored is None:
            await insert_early_fact(self._connection, fact, cause, self.now_us)
            return "early"
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

    async def save_order(self, order: StoredOrder, decision: Decision, cause: str | None = None) -> None:
        """Save what a decision changes of its locked order."""
        capture = decision.capture
        is_main = capture is not None and capture.credit_micros is not None and decision.state == "paid"
        told = order.failure_told or any(isinstance(item, OrderFailed) for item in decision.told)
        change = Change(
            decision.state or order.state,
            order.attempted or decision.attempted,
            told,
            capture.payment_id if is_main and capture is not None else order.payment_id,
        )
        if change == Change(order.state, order.attempted, order.failure_told, order.payment_id):
            return
        await update_order(self._connection, order, change, cause or self._cause.name, self.now_us)

    def tell(self, account: Account, told: Sequence[Told]) -> None:
        self.messages += [payment_message(account, item, self.now_us, self._shards) for item in told]


def _account_of(order: StoredOrder) -> Account:
    return Account(order.region, order.tenant_id, order.provider, order.account_currency, order.order_id)


def _account_of_payment(stored: StoredPayment) -> Account:
    """Whose credit a reversal moves; what is credited has an account."""
    assert stored.region is not None
    assert stored.tenant_id is not None
    assert stored.account_currency is not None
    return Account(stored.region, stored.tenant_id, stored.provider, stored.account_currency, stored.order_id)
