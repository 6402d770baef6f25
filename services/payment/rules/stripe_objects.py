"""What Stripe's objects and events mean, as facts. Pure: JSON in, facts out.

Sources: Stripe's API reference (Checkout Session, PaymentIntent, Refund, Dispute) and its guide to fulfilment. Money is
in only with `payment_status` paid or a succeeded intent; a credit is keyed on the intent, which Checkout emits too.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.payment.rules.currencies import from_stripe_units
from services.payment.rules.facts import (
    Attempted,
    Declined,
    DisputeClosed,
    Disputed,
    Expired,
    Fact,
    Money,
    OrderFact,
    Paid,
    Payer,
    PaymentFact,
    Refunded,
    RefundFailed,
    SavedCard,
)
from services.payment.rules.texts import CODE_MAX, EMAIL_MAX, NAME_MAX, clean_text
from shared.clock import SECOND_US
from shared.money import AMOUNT_MICROS_MAX

Object = Mapping[str, Any]

REGION_MARK: Final = "tollkeeper_region"
ORDER_MARK: Final = "tollkeeper_order_id"
TENANT_MARK: Final = "tollkeeper_tenant_id"
# Names our request on the refund that it led to, so that it is found again when its answer was lost.
REQUEST_MARK: Final = "tollkeeper_request_id"
# "saved" where a saved card is charged without the customer: there is no page on which to try again.
KIND_MARK: Final = "tollkeeper_kind"
SAVED_KIND: Final = "saved"

SESSION_EVENTS: Final = (
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
)
INTENT_EVENTS: Final = (
    "payment_intent.succeeded",
    "payment_intent.processing",
    "payment_intent.payment_failed",
    "payment_intent.canceled",
)
REFUND_EVENTS: Final = ("refund.created", "refund.updated", "refund.failed", "charge.refund.updated")
DISPUTE_EVENTS: Final = (
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
    "charge.dispute.closed",
)
EVENT_TYPES: Final = (*SESSION_EVENTS, *INTENT_EVENTS, *REFUND_EVENTS, *DISPUTE_EVENTS)


class NotStripeObjectError(ValueError):
    """An object without what it must have. Its text names fields, never values."""


def read_id(event: Object) -> str:
    """An event's id. Raises NotStripeObjectError."""
    return _text(event, "id")


def read_type(event: Object) -> str:
    """An event's type. Raises NotStripeObjectError."""
    return _text(event, "type")


def marks_of(found: Object) -> tuple[str | None, str | None]:
    """The region and order that our metadata names; None where it names none. Raises NotStripeObjectError."""
    metadata = found.get("metadata") or {}
    return _mark(metadata, REGION_MARK), _mark(metadata, ORDER_MARK)


def _mark(metadata: Object, name: str) -> str | None:
    return None if metadata.get(name) in (None, "") else _text(metadata, name)


def payment_of(event_type: str, found: Object) -> str | None:
    """The payment that a refund's or dispute's event is about. Raises NotStripeObjectError."""
    if event_type not in (*REFUND_EVENTS, *DISPUTE_EVENTS) or not found.get("payment_intent"):
        return None
    return f"stripe:{_id(found, 'payment_intent')}"


def read_event_facts(event_type: str, found: Object, at_us: int) -> tuple[Fact, ...]:
    """The facts of an event about `found`, told at `at_us`. Raises NotStripeObjectError."""
    order_id = marks_of(found)[1]
    fact: Fact | None = None
    if event_type in SESSION_EVENTS and order_id is not None:
        fact = _session_fact(event_type, found, order_id, at_us)
    elif event_type in INTENT_EVENTS and order_id is not None:
        fact = intent_fact(found, order_id, at_us)
    elif event_type in REFUND_EVENTS and found.get("payment_intent"):
        fact = refund_fact(found)
    elif event_type in DISPUTE_EVENTS and found.get("payment_intent"):
        fact = dispute_fact(found, event_type)
    return () if fact is None else (fact,)


def _session_fact(event_type: str, session: Object, order_id: str, at_us: int) -> OrderFact | None:
    if event_type == "checkout.session.expired":
        return Expired(order_id)
    if event_type == "checkout.session.async_payment_failed":
        return Declined(order_id, "async_payment_failed", final=True)
    if session.get("payment_status") == "paid":
        return session_paid(session, order_id, at_us)
    # Completed but not paid: an asynchronous method; its own event says how it ended.
    return Attempted(order_id, "waiting for an asynchronous payment method")


def session_paid(session: Object, order_id: str, at_us: int) -> Paid:
    """A paid session as a fact. Raises NotStripeObjectError."""
    intent_id = _id(session, "payment_intent")
    details = session.get("customer_details") or {}
    payer = _payer(details)
    money = _money(session, "amount_total")
    return Paid(order_id, f"stripe:{intent_id}", money, at_us, payer, intent_id, _saved_card(session))


def intent_fact(intent: Object, order_id: str, at_us: int) -> OrderFact | None:
    """What an intent's status means for its order; None while nothing was tried."""
    match intent.get("status"):
        case "succeeded":
            # Stripe states both; what speaks its language without the newer one means the same by "succeeded".
            money = _money(intent, "amount_received" if intent.get("amount_received") is not None else "amount")
            intent_id = _text(intent, "id")
            payer = _charge_payer(intent.get("latest_charge"))
            return Paid(order_id, f"stripe:{intent_id}", money, at_us, payer, intent_id, _saved_card(intent))
        case "processing":
            return Attempted(order_id, "processing")
        case "requires_payment_method":
            error = intent.get("last_payment_error")
            if not error:
                return None
            return Declined(order_id, clean_text(error.get("code"), CODE_MAX) or "declined", final=_is_saved(intent))
        case "canceled":
            return Declined(order_id, "canceled", final=True) if _is_saved(intent) else None
        case _:
            return None


def refund_fact(refund: Object) -> PaymentFact:
    """A refund by its status: one that failed or was cancelled left its money with us. Raises NotStripeObjectError."""
    payment_id = f"stripe:{_id(refund, 'payment_intent')}"
    refund_id, money = f"stripe:{_text(refund, 'id')}", _money(refund, "amount")
    status = refund.get("status")
    if status in ("failed", "canceled"):
        return RefundFailed(payment_id, refund_id, money, clean_text(refund.get("failure_reason"), CODE_MAX) or status)
    return Refunded(payment_id, refund_id, money, "succeeded" if status == "succeeded" else "pending")


def dispute_fact(dispute: Object, event_type: str = "") -> PaymentFact:
    """A dispute by its status and where its money is, which the event's type tells before the object does.

    `funds_reinstated` comes beside `closed`, in either order: a dispute won is over when the money is back.
    """
    payment_id = f"stripe:{_id(dispute, 'payment_intent')}"
    dispute_id, money = f"stripe:{_text(dispute, 'id')}", _money(dispute, "amount")
    withdrawn = _is_withdrawn(dispute) or event_type == "charge.dispute.funds_withdrawn"
    if event_type == "charge.dispute.funds_reinstated":
        return DisputeClosed(payment_id, dispute_id, "won", money, withdrawn=False)
    match dispute.get("status"):
        case "lost":
            return DisputeClosed(payment_id, dispute_id, "lost", money, withdrawn=True)
        case "won":
            return DisputeClosed(payment_id, dispute_id, "won", money, withdrawn=withdrawn)
        case "warning_closed" | "prevented":
            return DisputeClosed(payment_id, dispute_id, "won", money, withdrawn=False)
        case _:
            return Disputed(payment_id, dispute_id, money, withdrawn=withdrawn)


def _is_withdrawn(dispute: Object) -> bool:
    """Whether the money went to the bank more often than it came back.

    Counted, not summed: what comes back is converted at another day's rate into the currency that Stripe settles in.
    """
    moves = [int(item["amount"]) for item in dispute.get("balance_transactions") or ()]
    return sum(units < 0 for units in moves) > sum(units > 0 for units in moves)


def look_up_facts(session: Object | None, intent: Object | None, order_id: str) -> list[OrderFact]:
    """What a session and its intent, as they stand now, mean for an order; nothing while it is open."""
    if session is not None and session.get("status") == "expired":
        return [Expired(order_id)]
    if session is not None and session.get("payment_status") == "paid":
        return [session_paid(session, order_id, created_us(intent or session))]
    if intent is None:
        return []
    fact = intent_fact(intent, order_id, created_us(intent))
    if session is None or fact is None or not isinstance(fact, Declined):
        return [] if fact is None else [fact]
    # A completed session takes no second attempt; an open one does.
    return [Declined(order_id, fact.reason_code, final=session.get("status") == "complete")]


def reversal_facts(refunds: Sequence[Object], disputes: Sequence[Object]) -> list[PaymentFact]:
    """The refunds and disputes of a payment, oldest first as Stripe lists newest first."""
    facts: list[PaymentFact] = [refund_fact(item) for item in reversed(refunds)]
    for dispute in reversed(disputes):
        fact = dispute_fact(dispute)
        if isinstance(fact, DisputeClosed) and fact.outcome == "lost":
            facts.append(Disputed(fact.payment_id, fact.dispute_id, fact.money, withdrawn=True))
        facts.append(fact)
    return facts


def created_us(found: Object) -> int:
    """When an object or event was made. Raises NotStripeObjectError."""
    created = found.get("created")
    if not isinstance(created, int) or isinstance(created, bool) or not 0 <= created < 2**40:
        raise NotStripeObjectError("created is missing")
    return created * SECOND_US


def _money(found: Object, name: str) -> Money:
    units, currency = found.get(name), found.get("currency")
    if not isinstance(units, int) or isinstance(units, bool) or not isinstance(currency, str):
        raise NotStripeObjectError(f"{name} or currency is missing")
    money = from_stripe_units(units, currency)
    if not 0 < money.amount_micros <= AMOUNT_MICROS_MAX:
        raise NotStripeObjectError(f"{name} is no amount that an account can hold")
    return money


def _id(found: Object, name: str) -> str:
    """The id of another object, which may stand there expanded."""
    value = found.get(name)
    return _text(value, "id") if isinstance(value, Mapping) else _text(found, name)


def _text(found: Object, name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value or len(value) > 100 or not value.isprintable():
        raise NotStripeObjectError(f"{name} is missing or of no known form")
    return value


def _is_saved(intent: Object) -> bool:
    return (intent.get("metadata") or {}).get(KIND_MARK) == SAVED_KIND


def _saved_card(found: Object) -> SavedCard | None:
    """The card that the customer let us keep; it stands on the intent, expanded where a session is read."""
    intent = found.get("payment_intent") if found.get("object") == "checkout.session" else found
    if not isinstance(intent, Mapping) or intent.get("setup_future_usage") != "off_session":
        return None
    customer, method = intent.get("customer"), intent.get("payment_method")
    if not isinstance(customer, str) or not isinstance(method, str):
        return None
    return SavedCard(_text(intent, "customer"), _text(intent, "payment_method"))


def _charge_payer(charge: object) -> Payer | None:
    if not isinstance(charge, Mapping):
        return None
    return _payer(charge.get("billing_details") or {})


def _payer(details: Object) -> Payer:
    """What the payer typed, as far as it is text."""
    return Payer(clean_text(details.get("name"), NAME_MAX), clean_text(details.get("email"), EMAIL_MAX))
