"""What happens to money at the stand-in of Stripe: payments, refunds, disputes, and the event of each step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import stripe

from deploy.local.providers.courier import Courier
from deploy.local.providers.store import Document, Store
from deploy.local.providers.stripe import objects
from deploy.local.providers.stripe.errors import ApiError
from shared.clock import SECOND_US, Clock

VERSION: Final = stripe.api_version
_MESSAGES: Final = {
    "card_declined": ("card_declined", "generic_decline", "Your card was declined."),
    "insufficient_funds": ("card_declined", "insufficient_funds", "Your card has insufficient funds."),
    "authentication_required": (
        "authentication_required",
        "authentication_required",
        "Your card was declined. This transaction requires authentication.",
    ),
}


@dataclass(frozen=True, slots=True)
class Delays:
    """How long the provider takes, in seconds, for what it does by itself."""

    refund_seconds: float = 2
    bank_seconds: float = 5


class Payments:
    """Every method runs inside one transaction of the store, which its caller opens."""

    def __init__(self, store: Store, clock: Clock, delays: Delays) -> None:
        self.store = store
        self.courier: Courier | None = None  # set once by the composition root: it delivers what `emit` plans
        self._clock = clock
        self._delays = delays
        # What the next capture brings in instead of the amount asked for: {"amount", "currency"}.
        self.next_capture: Mapping[str, object] = {}
        # How many of the next events come as two Event objects for one fact.
        self.second_events = 0

    @property
    def now(self) -> int:
        """Seconds since 1970."""
        return self._clock.now_us() // SECOND_US

    def require(self, kind: str, object_id: str, *, param: str = "id", status: int = 404) -> Document:
        body = self.store.get(kind, object_id)
        if body is None:
            raise ApiError.missing(kind, object_id, param=param, status=status)
        return body

    def save(self, body: Document) -> Document:
        self.store.put(body["object"], body["id"], body)
        return body

    def emit(self, kind: str, about: Document) -> None:
        """Make an event and plan its callback."""
        assert self.courier is not None, "the composition root sets it"
        twice = self.second_events > 0
        self.second_events -= twice
        for _ in range(1 + twice):
            event = objects.event(
                self.store.new_id("evt"),
                kind,
                about,
                at=self.now,
                version=VERSION,
                request={"id": None, "idempotency_key": None},
            )
            self.save(event)
            self.courier.enqueue(kind, event["id"])

    def plan(self, seconds: float, action: str, subject: str) -> None:
        self.store.plan(self._clock.now_us() + round(seconds * SECOND_US), action, subject)

    def begin_charge(self, intent: Document, billing: Document) -> Document:
        """A charge for an attempt of `intent`, which it becomes the latest of."""
        intent.update(self.next_capture)
        self.next_capture = {}
        charge = objects.charge(self.store.new_id("ch"), intent, at=self.now, billing=billing)
        intent["latest_charge"] = charge["id"]
        return self.save(charge)

    def succeed(self, intent: Document, charge: Document) -> None:
        """The money is captured."""
        charge |= {"status": "succeeded", "paid": True, "captured": True, "amount_captured": charge["amount"]}
        charge["balance_transaction"] = self.store.new_id("txn")
        charge["outcome"] = {"network_status": "approved_by_network", "type": "authorized", "risk_level": "normal"}
        self.save(charge)
        intent |= {
            "status": "succeeded",
            "amount_received": intent["amount"],
            "next_action": None,
            "last_payment_error": None,
        }
        self.save(intent)
        self.emit("charge.succeeded", charge)
        self.emit("payment_intent.succeeded", intent)

    def decline(self, intent: Document, charge: Document, behaviour: str) -> ApiError:
        """The attempt is refused; the intent can be tried again. Answers the error that the API gives."""
        code, decline_code, message = _MESSAGES[behaviour]
        charge |= {"status": "failed", "failure_code": code, "failure_message": message}
        charge["outcome"] = {"network_status": "declined_by_network", "type": "issuer_declined", "reason": decline_code}
        self.save(charge)
        method = intent["payment_method"] and self.store.get("payment_method", intent["payment_method"])
        error = {
            "charge": charge["id"],
            "code": code,
            "decline_code": decline_code,
            "message": message,
            "payment_method": method and objects.public(method),
            "type": "card_error",
        }
        intent |= {"status": "requires_payment_method", "last_payment_error": error, "payment_method": None}
        self.save(intent)
        self.emit("charge.failed", charge)
        self.emit("payment_intent.payment_failed", intent)
        fields = {name: value for name, value in error.items() if name not in {"message", "type"}}
        return ApiError(402, "card_error", message, payment_intent=objects.public(intent), **fields)

    def refund(self, parameters: Document) -> Document:
        """Begin a refund; it succeeds by itself after a while."""
        charge = self._charge_of(parameters)
        left = charge["amount_captured"] - charge["amount_refunded"]
        amount = int(parameters.get("amount", left))
        if left == 0:
            raise ApiError.invalid(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
        if not 1 <= amount <= left:
            raise ApiError.invalid(
                f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})", param="amount"
            )
        if charge["disputed"] and not self._refundable(charge):
            raise ApiError.invalid(
                f"Charge {charge['id']} has been charged back; cannot issue a refund.", code="charge_disputed"
            )
        refund = objects.refund(self.store.new_id("re"), charge, amount=amount, at=self.now, parameters=parameters)
        self.save(refund)
        self._change_refunded(charge, amount)
        self.emit("charge.refunded", charge)
        self.emit("refund.created", refund)
        self.plan(self._delays.refund_seconds, "succeed-refund", refund["id"])
        return refund

    def _charge_of(self, parameters: Document) -> Document:
        if intent_id := parameters.get("payment_intent"):
            intent = self.require("payment_intent", intent_id, param="payment_intent", status=404)
            if intent["status"] != "succeeded":
                raise ApiError.invalid(f"This PaymentIntent ({intent_id}) does not have a successful charge to refund.")
            return self.require("charge", intent["latest_charge"])
        if charge_id := parameters.get("charge"):
            return self.require("charge", charge_id, param="charge")
        raise ApiError.invalid("One of these params should be provided: payment_intent or charge.")

    def _refundable(self, charge: Document) -> bool:
        disputes = [body for body in self.store.newest_first("dispute") if body["charge"] == charge["id"]]
        return all(body["is_charge_refundable"] for body in disputes)

    def _change_refunded(self, charge: Document, amount: int) -> None:
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount_captured"]
        self.save(charge)

    def succeed_refund(self, refund_id: str) -> None:
        """A pending refund reaches the customer; one that failed meanwhile stays failed."""
        refund = self.require("refund", refund_id)
        if refund["status"] == "pending":
            refund["status"] = "succeeded"
            self.save(refund)
            self.emit("refund.updated", refund)

    def fail_refund(self, refund_id: str, reason: str) -> Document:
        """A refund does not reach the customer: the money comes back to the merchant, also after it had succeeded."""
        refund = self.require("refund", refund_id)
        if refund["status"] == "failed":
            return refund
        refund |= {
            "status": "failed",
            "failure_reason": reason,
            "failure_balance_transaction": self.store.new_id("txn"),
        }
        self.save(refund)
        charge = self.require("charge", refund["charge"])
        self._change_refunded(charge, -refund["amount"])
        self.emit("refund.updated", refund)
        self.emit("refund.failed", refund)
        return refund

    def open_dispute(self, intent_id: str, amount: int | None, *, withdrawn: bool) -> Document:
        """The customer's bank disputes a payment; `withdrawn` says whether it takes the money at once."""
        intent = self.require("payment_intent", intent_id)
        charge = self.require("charge", intent["latest_charge"] or "none")
        dispute = objects.dispute(
            self.store.new_id("dp"),
            charge,
            amount=amount or charge["amount_captured"],
            at=self.now,
            withdrawn=withdrawn,
        )
        charge["disputed"] = True
        self.save(charge)
        self.save(dispute)
        self.emit("charge.dispute.created", dispute)
        if withdrawn:
            self.withdraw(dispute)
        return dispute

    def withdraw(self, dispute: Document) -> None:
        """The bank takes the disputed money."""
        self._move(dispute, -dispute["amount"])
        dispute |= {"status": "needs_response", "is_charge_refundable": False}
        self.save(dispute)
        self.emit("charge.dispute.funds_withdrawn", dispute)

    def close_dispute(self, dispute_id: str, status: str) -> Document:
        """`status` is won, lost or warning_closed. A dispute that is won gives back what was withdrawn."""
        dispute = self.require("dispute", dispute_id)
        if dispute["status"] in {"won", "lost", "warning_closed"}:
            return dispute
        dispute |= {"status": status, "is_charge_refundable": status != "lost"}
        taken = -sum(move["amount"] for move in dispute["balance_transactions"])
        if status == "won" and taken:
            self._move(dispute, taken)
        self.save(dispute)
        self.emit("charge.dispute.closed", dispute)
        if status == "won" and taken:
            self.emit("charge.dispute.funds_reinstated", dispute)
        return dispute

    def _move(self, dispute: Document, amount: int) -> None:
        transaction = objects.balance_transaction(
            self.store.new_id("txn"),
            dispute,
            amount=amount,
            at=self.now,
            kind="dispute" if amount < 0 else "dispute_reversal",
        )
        dispute["balance_transactions"].append(transaction)
