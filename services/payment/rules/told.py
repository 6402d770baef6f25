"""What payment told once, read as facts again: by it a database that was set back adopts what it forgot."""

from services.payment.rules.currencies import payable_micros
from services.payment.rules.facts import (
    Declined,
    DisputeClosed,
    Disputed,
    Expired,
    Money,
    Paid,
    PaymentFact,
    Refunded,
    RefundFailed,
)
from services.payment.rules.reversals import Payment
from shared.events.payments import (
    PaymentCaptured,
    PaymentDisputeClosed,
    PaymentDisputed,
    PaymentFailed,
    PaymentRefunded,
    PaymentRefundFailed,
)

ToldReversal = PaymentRefunded | PaymentRefundFailed | PaymentDisputed | PaymentDisputeClosed


def paid_of(event: PaymentCaptured) -> Paid:
    data = event.data
    return Paid(
        data.order_id,
        data.payment_id,
        Money(data.paid_micros, data.paid_currency),
        event.time,
        None,
        data.payment_id,
    )


def failure_of(event: PaymentFailed) -> Declined | Expired:
    """How an order failed."""
    return failure_as_told(event.data.order_id, event.data.reason)


def failure_as_told(order_id: str, reason: str) -> Declined | Expired:
    """How an order failed for a reason that was told."""
    return Expired(order_id) if reason == "expired" else Declined(order_id, reason, final=True)


def reversal_of(event: ToldReversal, payment: Payment) -> PaymentFact:
    """A told refund or dispute as a fact about the payment as it stood before it.

    A refund that was told is pending until its provider says more.
    """
    match event:
        case PaymentRefunded(data=refund):
            micros = refund.refunded_micros or _gone_for(payment, refund.amount_micros)
            return Refunded(payment.payment_id, refund.refund_id, _money(payment, micros), "pending")
        case PaymentRefundFailed(data=refund):
            known = payment.find_refund(refund.refund_id)
            micros = refund.refunded_micros or (known and known.amount_micros) or 1
            return RefundFailed(payment.payment_id, refund.refund_id, _money(payment, micros), "failed")
        case PaymentDisputed(data=disputed):
            micros = disputed.disputed_micros or _disputed_micros(
                payment, disputed.dispute_id, max(disputed.held_micros, disputed.withdrawn_micros)
            )
            withdrawn = event.id.endswith("/withdrawn")
            return Disputed(payment.payment_id, disputed.dispute_id, _money(payment, micros), withdrawn)
        case PaymentDisputeClosed(data=closed):
            micros = closed.disputed_micros or _disputed_micros(payment, closed.dispute_id, closed.withdrawn_micros)
            money, lost = _money(payment, micros), closed.outcome == "lost"
            return DisputeClosed(payment.payment_id, closed.dispute_id, "lost" if lost else "won", money, lost)


def _money(payment: Payment, micros: int) -> Money:
    return Money(micros, payment.paid.currency)


def _disputed_micros(payment: Payment, dispute_id: str, credit_micros: int) -> int:
    """The amount of a dispute as far as an older version told it: at least what it took, or held, of the credit."""
    known = payment.find_dispute(dispute_id)
    return known.amount_micros if known is not None else _gone_for(payment, credit_micros)


def _gone_for(payment: Payment, credit_micros: int) -> int:
    """How much of the customer's money must go for `credit_micros` of the credit to go with it.

    The inverse of `Payment.reversed_micros`: of the amounts that round to it, the one that a provider can carry out.
    """
    if not payment.credit_micros:
        return max(1, credit_micros)
    aim_micros = payment.reversed_micros + credit_micros
    exact = -(-aim_micros * payment.paid.amount_micros // payment.credit_micros) - payment.gone_micros
    unit = payable_micros(payment.paid.currency)
    rounded = -(-exact // unit) * unit
    after = payment.credit_micros * (payment.gone_micros + rounded) // payment.paid.amount_micros
    return max(1, rounded if after == aim_micros else exact)
