"""What a fact leads to: rows to write and events to tell, decided without a database.

Amounts of events are micros of the account's currency; amounts of rows are micros of the payment's own.
"""

from dataclasses import dataclass
from typing import Literal

from services.payment.rules.facts import Money

OrderState = Literal["pending", "paid", "credited", "failed", "expired", "mismatched", "refunded", "disputed"]
# What became of a fact. "repeated" changed nothing because this very result was applied before; "unknown" is our own
# order that is not there, "early" a reversal whose payment is not.
# "unreadable" and "failed" are kept with their reason, to be tried again; "dismissed" is an operator's word on one.
Outcome = Literal[
    "applied",
    "repeated",
    "mismatched",
    "queued",
    "unknown",
    "early",
    "ignored",
    "unreadable",
    "failed",
    "dismissed",
]
QueueKind = Literal[
    "mismatch",
    "duplicate",
    "unknown-order",
    "refund-failed",
    "excess",
    "reversal-currency",
    "dispute-contradiction",
]


@dataclass(frozen=True, slots=True)
class Captured:
    """Credit `credit_micros` for a payment."""

    payment_id: str
    order_id: str | None
    credit_micros: int
    paid: Money


@dataclass(frozen=True, slots=True)
class OrderFailed:
    order_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RefundTold:
    """A refund took `credit_micros` of a payment's credit, or (`failed`) gave it back; it is of `refunded_micros`."""

    payment_id: str
    refund_id: str
    credit_micros: int
    refunded_micros: int
    failed: bool = False


@dataclass(frozen=True, slots=True)
class DisputeTold:
    """A dispute of `disputed_micros` holds `held_micros` from now on; `withdrawn_micros` left with this step."""

    payment_id: str
    dispute_id: str
    step: Literal["opened", "withdrawn"]
    held_micros: int
    withdrawn_micros: int
    disputed_micros: int


@dataclass(frozen=True, slots=True)
class DisputeClosedTold:
    payment_id: str
    dispute_id: str
    outcome: Literal["won", "lost"]
    returned_micros: int
    withdrawn_micros: int
    disputed_micros: int


Told = Captured | OrderFailed | RefundTold | DisputeTold | DisputeClosedTold


@dataclass(frozen=True, slots=True)
class Capture:
    """A payment's row to write; without `credit_micros` nothing is credited until an operator says so."""

    payment_id: str
    credit_micros: int | None


@dataclass(frozen=True, slots=True)
class Refund:
    """A refund's row; a failed one stays failed. `amount_micros` in the payment's currency."""

    refund_id: str
    amount_micros: int
    state: Literal["pending", "succeeded", "failed"]
    reason: str | None = None

    @property
    def gone_micros(self) -> int:
        return 0 if self.state == "failed" else self.amount_micros


@dataclass(frozen=True, slots=True)
class Dispute:
    """A dispute's row. `held_micros` is of the account's currency, `withdrawn` says where the money is."""

    dispute_id: str
    amount_micros: int
    held_micros: int = 0
    withdrawn: bool = False
    outcome: Literal["open", "won", "lost"] = "open"

    @property
    def gone_micros(self) -> int:
        return self.amount_micros if self.withdrawn else 0


@dataclass(frozen=True, slots=True)
class Queued:
    """Something for an operator. `subject` makes the item's id: what is queued again is the same item."""

    kind: QueueKind
    subject: str
    payment_id: str | None
    amount_micros: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class Decision:
    """`state` None: the order stays as it is. `attempted` marks the order as tried; it is never taken back."""

    outcome: Outcome
    state: OrderState | None = None
    attempted: bool = False
    capture: Capture | None = None
    refund: Refund | None = None
    dispute: Dispute | None = None
    queued: tuple[Queued, ...] = ()
    told: tuple[Told, ...] = ()


REPEATED = Decision("repeated")
