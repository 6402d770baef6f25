"""Refunds and disputes: how much of a payment's credit they take and give back.

What is reversed is a function of the rows alone: of the money that is gone, never more than was paid, the part of the
credit that it bought, rounded down over the sum. So parts add up to the whole exactly, any order of arrival reaches
the same total, and reversals never exceed the credit; what is gone beyond the payment is the excess, for an operator.
"""

from dataclasses import dataclass, replace

from services.payment.rules.decision import (
    REPEATED,
    Decision,
    Dispute,
    DisputeClosedTold,
    DisputeTold,
    OrderState,
    Queued,
    Refund,
    RefundTold,
    Told,
)
from services.payment.rules.facts import DisputeClosed, Disputed, Money, PaymentFact, Refunded, RefundFailed


@dataclass(frozen=True, slots=True)
class Payment:
    """A captured payment with its reversals; `credit_micros` None until something is credited for it."""

    payment_id: str
    paid: Money
    credit_micros: int | None
    credited: bool = False
    refunds: tuple[Refund, ...] = ()
    disputes: tuple[Dispute, ...] = ()

    @property
    def gone_micros(self) -> int:
        """What left again, in the payment's currency; may exceed what was paid."""
        return self.refunded_micros + sum(dispute.gone_micros for dispute in self.disputes)

    @property
    def refunded_micros(self) -> int:
        return sum(refund.gone_micros for refund in self.refunds)

    @property
    def reversed_micros(self) -> int:
        """What reversals have taken of the credit, in the account's currency."""
        return self._credit_of(self.gone_micros)

    @property
    def held_micros(self) -> int:
        return sum(dispute.held_micros for dispute in self.disputes)

    @property
    def excess_micros(self) -> int:
        return max(0, self.gone_micros - self.paid.amount_micros)

    def _credit_of(self, gone_micros: int) -> int:
        credit_micros = self.credit_micros or 0
        return credit_micros * min(gone_micros, self.paid.amount_micros) // self.paid.amount_micros

    def could_hold(self, amount_micros: int) -> int:
        """What of the credit a dispute of `amount_micros` can hold beside what is gone or held already."""
        left_micros = (self.credit_micros or 0) - self.reversed_micros - self.held_micros
        return max(0, min(self._credit_of(amount_micros), left_micros))

    def with_refund(self, refund: Refund) -> "Payment":
        others = tuple(item for item in self.refunds if item.refund_id != refund.refund_id)
        return replace(self, refunds=(*others, refund))

    def with_dispute(self, dispute: Dispute) -> "Payment":
        others = tuple(item for item in self.disputes if item.dispute_id != dispute.dispute_id)
        return replace(self, disputes=(*others, dispute))

    def find_refund(self, refund_id: str) -> Refund | None:
        return next((item for item in self.refunds if item.refund_id == refund_id), None)

    def find_dispute(self, dispute_id: str) -> Dispute | None:
        return next((item for item in self.disputes if item.dispute_id == dispute_id), None)


def derive_state(payment: Payment) -> OrderState:
    """The state of the order that this payment was credited for: derived from the rows, never remembered."""
    if any(dispute.outcome == "open" for dispute in payment.disputes):
        return "disputed"
    if payment.refunded_micros >= payment.paid.amount_micros:
        return "refunded"
    return "credited" if payment.credited else "paid"


def decide_reversal(payment: Payment, fact: PaymentFact) -> Decision:
    """Decide a refund's or dispute's fact about a known payment. The order's state follows from `derive_state`."""
    if fact.money.currency != payment.paid.currency:
        # A step of its own each: what an operator dismissed while it was open comes again when it is lost.
        subject = _name_step(fact)
        detail = f"{fact.money.currency} taken of a payment in {payment.paid.currency}"
        queued = Queued("reversal-currency", subject, payment.payment_id, fact.money.amount_micros, detail)
        return Decision("queued", queued=(queued,))
    match fact:
        case Refunded():
            return _decide_refunded(payment, fact)
        case RefundFailed():
            return _decide_refund_failed(payment, fact)
        case Disputed():
            return _decide_disputed(payment, fact.dispute_id, fact.money, withdrawn=fact.withdrawn)
        case DisputeClosed():
            return _decide_closed(payment, fact)


def _name_step(fact: PaymentFact) -> str:
    match fact:
        case Refunded(refund_id=refund_id):
            return refund_id
        case RefundFailed(refund_id=refund_id):
            return f"{refund_id}/failed"
        case Disputed(dispute_id=dispute_id, withdrawn=withdrawn):
            return f"{dispute_id}/{'withdrawn' if withdrawn else 'opened'}"
        case DisputeClosed(dispute_id=dispute_id, outcome=outcome):
            return f"{dispute_id}/{outcome}"


def _decide_refunded(payment: Payment, fact: Refunded) -> Decision:
    known = payment.find_refund(fact.refund_id)
    if known is not None:
        if known.state != "pending" or fact.state == "pending":
            return REPEATED
        return Decision("applied", refund=replace(known, state="succeeded"))
    refund = Refund(fact.refund_id, fact.money.amount_micros, fact.state)
    after = payment.with_refund(refund)
    taken_micros = after.reversed_micros - payment.reversed_micros
    all_micros = refund.amount_micros
    told = (RefundTold(payment.payment_id, refund.refund_id, taken_micros, all_micros),) if taken_micros else ()
    return Decision("applied", refund=refund, told=told, queued=_excess(payment, after, refund.refund_id))


def _decide_refund_failed(payment: Payment, fact: RefundFailed) -> Decision:
    known = payment.find_refund(fact.refund_id)
    if known is not None and known.state == "failed":
        return REPEATED
    refund = Refund(fact.refund_id, fact.money.amount_micros, "failed", fact.reason)
    after = payment.with_refund(refund)
    given_micros = payment.reversed_micros - after.reversed_micros
    told: tuple[Told, ...] = ()
    if given_micros:
        told = (RefundTold(payment.payment_id, refund.refund_id, given_micros, refund.amount_micros, failed=True),)
    queued: tuple[Queued, ...] = ()
    if payment.credit_micros is None:
        # Nobody has credit for this money, and now it is with us again: somebody must look at it once more.
        detail = f"the refund {refund.refund_id} failed: {fact.reason}"
        queued = (Queued("refund-failed", refund.refund_id, payment.payment_id, refund.amount_micros, detail),)
    return Decision("applied", refund=refund, told=told, queued=queued)


def _decide_disputed(payment: Payment, dispute_id: str, money: Money, *, withdrawn: bool) -> Decision:
    known = payment.find_dispute(dispute_id)
    if known is not None and (known.outcome != "open" or known.withdrawn or not withdrawn):
        return REPEATED
    if not withdrawn:
        dispute = Dispute(dispute_id, money.amount_micros, payment.could_hold(money.amount_micros))
        told: tuple[Told, ...] = ()
        if payment.credit_micros is not None:
            all_micros, held_micros = dispute.amount_micros, dispute.held_micros
            told = (DisputeTold(payment.payment_id, dispute_id, "opened", held_micros, 0, all_micros),)
        return Decision("applied", dispute=dispute, told=told)
    dispute = replace(known or Dispute(dispute_id, money.amount_micros), held_micros=0, withdrawn=True)
    after = payment.with_dispute(dispute)
    told = ()
    if payment.credit_micros is not None:
        taken_micros = after.reversed_micros - payment.reversed_micros
        told = (DisputeTold(payment.payment_id, dispute_id, "withdrawn", 0, taken_micros, dispute.amount_micros),)
    return Decision("applied", dispute=dispute, told=told, queued=_excess(payment, after, dispute_id))


def _decide_closed(payment: Payment, fact: DisputeClosed) -> Decision:
    if fact.outcome == "won" and fact.withdrawn:
        # Won, but the money is still at the bank: it is over when the money is back.
        return _decide_disputed(payment, fact.dispute_id, fact.money, withdrawn=True)
    known = payment.find_dispute(fact.dispute_id)
    if known is not None and known.outcome != "open":
        return REPEATED if known.outcome == fact.outcome else _contradiction(payment, fact)
    lost = fact.outcome == "lost"
    base = known or Dispute(fact.dispute_id, fact.money.amount_micros)
    dispute = replace(base, held_micros=0, withdrawn=lost, outcome=fact.outcome)
    after = payment.with_dispute(dispute)
    moved_micros = after.reversed_micros - payment.reversed_micros
    told: tuple[Told, ...] = ()
    if payment.credit_micros is not None:
        told = (
            DisputeClosedTold(
                payment.payment_id,
                fact.dispute_id,
                fact.outcome,
                max(0, -moved_micros),
                max(0, moved_micros),
                dispute.amount_micros,
            ),
        )
    return Decision("applied", dispute=dispute, told=told, queued=_excess(payment, after, fact.dispute_id))


def _contradiction(payment: Payment, fact: DisputeClosed) -> Decision:
    detail = f"closed as {fact.outcome} after it had been closed otherwise"
    subject = f"{fact.dispute_id}/{fact.outcome}"
    queued = Queued("dispute-contradiction", subject, payment.payment_id, fact.money.amount_micros, detail)
    return Decision("queued", queued=(queued,))


def _excess(before: Payment, after: Payment, subject: str) -> tuple[Queued, ...]:
    more_micros = after.excess_micros - before.excess_micros
    if more_micros <= 0:
        return ()
    detail = f"reversed {more_micros} micros {before.paid.currency} more than was paid"
    return (Queued("excess", subject, before.payment_id, more_micros, detail),)
