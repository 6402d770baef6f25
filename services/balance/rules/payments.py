"""What a fact of payment does to an account: at most one entry, what a dispute holds, which order it ends.

Pure; the facts come in payment's order, each once.
"""

from dataclasses import dataclass

from services.balance.rules.crossing import Movement
from services.balance.rules.posting import FactEntry
from shared.errors import RecordError
from shared.events.account import CreditKind, EntryClass
from shared.events.payments import (
    AutoTopUpSuspended,
    PaymentCaptured,
    PaymentDisputeClosed,
    PaymentDisputed,
    PaymentEvent,
    PaymentFailed,
    PaymentRefunded,
    PaymentRefundFailed,
)

MoneyEvent = PaymentCaptured | PaymentRefunded | PaymentRefundFailed | PaymentDisputed | PaymentDisputeClosed


@dataclass(frozen=True, slots=True)
class Effect:
    """`moved_micros` is positive in the customer's favour; 0 makes no entry.

    `hold` is (dispute, what it holds from now on); `credit` names what `account.credited` tells of.
    """

    moved_micros: int = 0
    entry_class: EntryClass = "payment"
    counter_account: str = ""
    credit: tuple[CreditKind, str] | None = None
    hold: tuple[str, int] | None = None
    payment_id: str | None = None
    ended_order: str | None = None

    @property
    def movement(self) -> Movement:
        kind, name = (None, None) if self.credit is None else self.credit
        return Movement(self.moved_micros, name, kind)

    def entry(self, account_id: int, account: str, place: int, fact_id: str, burn_micros_per_hour: int) -> FactEntry:
        return FactEntry(
            *(account_id, account, place, fact_id),
            *(self.moved_micros, self.counter_account, self.entry_class, burn_micros_per_hour),
        )


def effect_of(event: PaymentEvent) -> Effect | None:
    """The effect of a fact; None for what concerns no account. Raises RecordError where a fact contradicts itself."""
    if isinstance(event, AutoTopUpSuspended):
        return None
    if isinstance(event, PaymentFailed):
        return Effect(ended_order=event.data.order_id)
    return _money_effect(event, f"payment:{event.data.provider}")


def _money_effect(event: MoneyEvent, side: str) -> Effect:
    payment_id = event.data.payment_id
    match event:
        case PaymentCaptured(data=captured):
            credit = _credit("payment", payment_id)
            return Effect(captured.amount_micros, "payment", side, credit, None, payment_id, captured.order_id)
        case PaymentRefunded(data=refund):
            return Effect(-refund.amount_micros, "refund", side, payment_id=payment_id)
        case PaymentRefundFailed(data=refund):
            credit = _credit("refund_failed", refund.refund_id)
            return Effect(refund.amount_micros, "refund", side, credit, payment_id=payment_id)
        case PaymentDisputed(data=dispute):
            hold = dispute.dispute_id, dispute.held_micros
            return Effect(-dispute.withdrawn_micros, "dispute", side, hold=hold, payment_id=payment_id)
        case PaymentDisputeClosed(data=closed):
            if closed.returned_micros and closed.withdrawn_micros:
                raise RecordError("invalid event", "a closed dispute either returns money or takes it, not both")
            moved_micros = closed.returned_micros - closed.withdrawn_micros
            credit = _credit("dispute_won", closed.dispute_id)
            return Effect(moved_micros, "dispute", side, credit, (closed.dispute_id, 0), payment_id)


def _credit(kind: CreditKind, name: str) -> tuple[CreditKind, str]:
    return kind, name
