"""The state machine of orders: what a fact about an order leads to, whatever came before it.

Money decides: a verified success of the right amount is credited also after a failure or an expiry, and what does not
match is kept for an operator. Every state has a way out: `failed` and `expired` by a late success, `mismatched` by an
operator's settlement, a refund, or the right payment.
"""

from dataclasses import dataclass, replace

from services.payment.rules.decision import (
    REPEATED,
    Capture,
    Captured,
    Decision,
    OrderFailed,
    OrderState,
    Outcome,
    Queued,
    QueueKind,
)
from services.payment.rules.facts import Attempted, Declined, Expired, Money, Paid
from services.payment.rules.reversals import Payment
from shared.errors import Refusal


@dataclass(frozen=True, slots=True)
class Order:
    """What decides of an order. `payment_id` is the payment that was credited for it; `failure_told` never falls."""

    order_id: str
    money: Money
    credit_micros: int
    state: OrderState = "pending"
    payment_id: str | None = None
    attempted: bool = False
    failure_told: bool = False


def decide_paid(order: Order | None, fact: Paid, *, known: bool) -> Decision:
    """Decide a verified success; `known` when this very payment has its row already."""
    if known:
        return REPEATED
    if order is None:
        return _keep(fact, "unknown-order", "unknown", f"paid for the order {fact.order_id}, which is not known here")
    if order.payment_id is not None:
        return _keep(fact, "duplicate", "queued", f"the order was paid already, by {order.payment_id}")
    if fact.money != order.money:
        detail = f"asked {order.money.amount_micros} micros {order.money.currency}"
        return replace(_keep(fact, "mismatch", "mismatched", detail), state="mismatched", attempted=True)
    return Decision(
        "applied",
        state="paid",
        attempted=True,
        capture=Capture(fact.payment_id, order.credit_micros),
        told=(Captured(fact.payment_id, order.order_id, order.credit_micros, fact.money),),
    )


def _keep(fact: Paid, kind: QueueKind, outcome: Outcome, detail: str) -> Decision:
    """Keep the money in sight without crediting it."""
    queued = Queued(kind, fact.payment_id, fact.payment_id, fact.money.amount_micros, detail)
    return Decision(outcome, capture=Capture(fact.payment_id, None), queued=(queued,))


def decide_order_fact(order: Order, fact: Attempted | Declined | Expired) -> Decision:
    """Decide what happened to an order without money. Only a pending order fails or expires, and tells it once."""
    match fact:
        case Attempted():
            untried = order.state == "pending" and not order.attempted
            return Decision("applied", attempted=True) if untried else REPEATED
        case Declined(final=False):
            return Decision("ignored")
        case Declined(reason_code=reason):
            state: OrderState = "failed"
        case Expired():
            state, reason = "expired", "expired"
    if order.state != "pending":
        return REPEATED if order.state == state else Decision("ignored")
    return Decision("applied", state=state, told=(OrderFailed(order.order_id, reason),))


def settle_credit(order: Order | None, payment_id: str, paid: Money, credit_micros: int) -> Decision:
    """An operator credits a payment that matched nothing, under the payment's own id.

    Raises Refusal for an amount that is none. An order that has its payment keeps it; another one becomes paid.
    """
    if credit_micros <= 0:
        raise Refusal("invalid-amount", "a credit is a positive amount of the account's currency", status=422)
    takes_order = order is not None and order.payment_id is None
    return Decision(
        "applied",
        state="paid" if takes_order else None,
        capture=Capture(payment_id, credit_micros),
        told=(Captured(payment_id, None if order is None else order.order_id, credit_micros, paid),),
    )


def end_mismatch(order: Order, state: OrderState, reason: str) -> Decision:
    """A mismatched order ends without credit: its payment went back (`refunded`) or was dismissed (`failed`)."""
    if order.state != "mismatched":
        return REPEATED
    told = () if order.failure_told else (OrderFailed(order.order_id, reason),)
    return Decision("applied", state=state, told=told)


def follow_uncredited(order: Order, payment: Payment) -> Decision:
    """What a change of a payment that was never credited means for its order: all of it went back, or came again."""
    whole = payment.refunded_micros >= payment.paid.amount_micros
    if whole and order.state == "mismatched":
        return end_mismatch(order, "refunded", "refunded")
    if not whole and order.state == "refunded" and order.payment_id is None:
        return Decision("applied", state="mismatched")
    return REPEATED
