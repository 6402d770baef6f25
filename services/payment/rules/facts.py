"""What a provider says of money, in one language for all providers.

Provider-specific code makes these of webhooks, answers and look-ups; `rules/orders.py` decides what they mean. Amounts
are micros of the payment's own currency.
"""

from dataclasses import dataclass, field
from typing import Literal

from shared.events.payments import Provider

DisputeOutcome = Literal["won", "lost"]


@dataclass(frozen=True, slots=True)
class Money:
    amount_micros: int
    currency: str


@dataclass(frozen=True, slots=True)
class Payer:
    """Personal: kept in payment's database and on the receipt, never in a log or an event."""

    name: str = ""
    email: str = ""


@dataclass(frozen=True, slots=True)
class Paid:
    """Money was received. `payment_id` names the payment for ever; `reference` is what a receipt calls it.

    `order_id` is None where the provider does not say for which order. `saved_method` is what the customer agreed to
    be charged by later: (customer, payment method).
    """

    payment_id: str
    order_id: str | None
    money: Money
    at_us: int
    reference: str
    payer: Payer = field(default_factory=Payer)
    saved_method: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Attempted:
    """The customer tried; the outcome is open."""

    order_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Declined:
    """An attempt was refused. After a `final` one the provider takes no other for this order."""

    order_id: str
    reason: str
    final: bool


@dataclass(frozen=True, slots=True)
class Expired:
    """The provider takes no payment for this order any more, and has none."""

    order_id: str


@dataclass(frozen=True, slots=True)
class Refunded:
    """Money goes back to the payer, or is back already. `request_id` is our own, where the refund is ours."""

    payment_id: str
    refund_id: str
    money: Money
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class RefundFailed:
    """A refund came to nothing: the money is with us."""

    payment_id: str
    refund_id: str
    money: Money
    reason: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Disputed:
    """A payer disputes a payment; with `withdrawn` the provider has taken the money from us."""

    payment_id: str
    dispute_id: str
    money: Money
    withdrawn: bool


@dataclass(frozen=True, slots=True)
class DisputeClosed:
    """A dispute is over. Won: what was withdrawn is ours again. Lost: it is gone."""

    payment_id: str
    dispute_id: str
    money: Money
    outcome: DisputeOutcome


OrderFact = Attempted | Declined | Expired
ReversalFact = Refunded | RefundFailed | Disputed | DisputeClosed
Fact = Paid | OrderFact | ReversalFact

__all__ = [
    "Attempted",
    "Declined",
    "DisputeClosed",
    "DisputeOutcome",
    "Disputed",
    "Expired",
    "Fact",
    "Money",
    "OrderFact",
    "Paid",
    "Payer",
    "Provider",
    "RefundFailed",
    "Refunded",
    "ReversalFact",
]
