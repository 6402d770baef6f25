"""Facts: what a payment provider says, in one language, whoever says it and however it came.

A webhook, an IPN, an answer to a question, and an operator's settlement all become these before anything is decided.
Amounts are micros of a currency, also of currencies without decimals; a provider's minor units end at its edge.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Money:
    """`amount_micros` millionths of one unit of `currency` (ISO 4217, upper case): 50.00 USD is 50_000_000."""

    amount_micros: int
    currency: str


@dataclass(frozen=True, slots=True)
class Payer:
    """Who paid, as the provider says. Personal: kept in payment's database and on the receipt, nowhere else."""

    name: str | None = None
    email: str | None = None


@dataclass(frozen=True, slots=True)
class SavedCard:
    """What the provider calls a card that the customer let us charge later: references, never card data."""

    customer: str
    method: str


@dataclass(frozen=True, slots=True)
class Paid:
    """A verified success: `money` is at the provider under `payment_id`.

    `order_id` is None where the provider names no order of ours. `reference` is what a receipt names to the customer.
    """

    order_id: str | None
    payment_id: str
    money: Money
    at_us: int
    payer: Payer | None
    reference: str
    saved_card: SavedCard | None = None


@dataclass(frozen=True, slots=True)
class Declined:
    """An attempt was refused. Unless `final`, the customer may try again on the same page."""

    order_id: str
    reason_code: str
    final: bool


@dataclass(frozen=True, slots=True)
class Attempted:
    """The customer tried something whose outcome is open, such as a bank debit that takes days."""

    order_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Expired:
    """The provider closed the order's page unpaid."""

    order_id: str


@dataclass(frozen=True, slots=True)
class Refunded:
    """`money` goes back, or went. A pending refund counts as gone: the provider has taken it from us."""

    payment_id: str
    refund_id: str
    money: Money
    state: Literal["pending", "succeeded"]


@dataclass(frozen=True, slots=True)
class RefundFailed:
    """A refund did not go through after all: its money is ours again. `reason` is the provider's code."""

    payment_id: str
    refund_id: str
    money: Money
    reason: str


@dataclass(frozen=True, slots=True)
class Disputed:
    """The customer's bank contests a payment; `withdrawn` when the provider took the money from us with it."""

    payment_id: str
    dispute_id: str
    money: Money
    withdrawn: bool


@dataclass(frozen=True, slots=True)
class DisputeClosed:
    """A dispute ended. `withdrawn` says where its money is now: True at the bank, False with us."""

    payment_id: str
    dispute_id: str
    outcome: Literal["won", "lost"]
    money: Money
    withdrawn: bool


OrderFact = Paid | Declined | Attempted | Expired
PaymentFact = Refunded | RefundFailed | Disputed | DisputeClosed
Fact = OrderFact | PaymentFact
