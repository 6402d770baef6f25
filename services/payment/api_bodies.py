"""What payment's HTTP API takes and answers. Amounts of customers are decimal strings, of operators micros."""

import re
from typing import Annotated, Any, Literal

import asyncpg
from fastapi import Header
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.payment.rules.conversion import Quote, format_rate
from services.payment.store.history import HistoryEntry, HistoryPayment
from services.payment.store.inbox import Kept
from services.payment.store.orders import StoredOrder
from services.payment.store.queue import QueueItem
from services.payment.store.refund_requests import RefundRequest
from shared.clock import format_instant
from shared.events.cloudevents import Identifier, RegionName, TenantId
from shared.events.payments import Provider
from shared.money import format_micros

_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,190}")


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must not hold control characters")
    return text


def _address(text: str) -> str:
    if text and _EMAIL.fullmatch(text) is None:
        raise ValueError("is not an e-mail address")
    return _printable(text)


Text = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
IdempotencyKey = Annotated[Identifier, Header(alias="Idempotency-Key")]
Reason = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_printable)]
Actor = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]
Currency = Annotated[str, Field(pattern="^[A-Z]{3}$")]
Amount = Annotated[str, Field(max_length=40)]
PositiveMicros = Annotated[int, Field(strict=True, gt=0, le=2**63 - 1)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TopUpBody(_Body):
    """`amount` like "50.00". `quote_id` where the currency is not the region's. `email` and `name` are optional.

    With `save_card` Stripe keeps the card, if the customer agrees, for automatic top-up.
    """

    region: RegionName
    tenant_id: TenantId
    amount: Amount
    currency: Currency
    provider: Provider
    quote_id: Text | None = None
    email: Annotated[str, Field(max_length=254), AfterValidator(_address)] = ""
    name: Text = ""
    locale: Annotated[str, Field(pattern="^([a-z]{2}(-[A-Z]{2})?)?$")] = ""
    bank_code: Annotated[str, Field(pattern="^[A-Za-z0-9]{0,20}$")] = ""
    save_card: Annotated[bool, Field(strict=True)] = False


class QuoteBody(_Body):
    region: RegionName
    amount: Amount
    currency: Currency


class RateBody(_Body):
    """One unit of `from` is `rate` units of `to` from the beginning of `date` (UTC) on."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    from_currency: Currency = Field(alias="from")
    to_currency: Currency = Field(alias="to")
    rate: Annotated[str, Field(max_length=40)]
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    actor: Actor


class SettlementBody(_Body):
    """`amount_micros` of the account's currency, to credit; region and tenant where no order says whose it is."""

    action: Literal["credit", "refund", "dismiss"]
    reason: Reason
    actor: Actor
    amount_micros: PositiveMicros | None = None
    region: RegionName | None = None
    tenant_id: TenantId | None = None


class RefundBody(_Body):
    """`amount_micros` of the payment's currency, or `full` for all that is left."""

    amount_micros: PositiveMicros | None = None
    full: bool = False
    reason: Reason
    actor: Actor


class WithdrawalBody(_Body):
    """`checked`: the operator saw at the provider that the refund was not made."""

    actor: Actor
    reason: Reason
    checked: Annotated[bool, Field(strict=True)] = False


def describe_order(order: StoredOrder, public_url: str) -> dict[str, Any]:
    """`order_url` is the order's page: whoever has the link sees it, with the account's balance."""
    return {
        "order_url": f"{public_url.rstrip('/')}/orders/{order.page_token}",
        "order_id": order.order_id,
        "region": order.region,
        "tenant_id": order.tenant_id,
        "provider": order.provider,
        "state": order.state,
        "page_url": order.page_url,
        "amount": format_micros(order.amount_micros),
        "currency": order.currency,
        "credit_micros": order.credit_micros,
        "account_currency": order.account_currency,
        "rate": None if order.rate_date is None else format_rate(order.rate_e12),
        "rate_date": None if order.rate_date is None else order.rate_date.isoformat(),
        "payment_id": order.payment_id,
        "created_at": format_instant(order.created_at),
        "expires_at": format_instant(order.expires_at),
    }


def describe_quote(quote: Quote) -> dict[str, Any]:
    return {
        "quote_id": quote.quote_id,
        "region": quote.region,
        "amount": format_micros(quote.money.amount_micros),
        "currency": quote.money.currency,
        "rate": format_rate(quote.rate.rate_e12),
        "rate_date": quote.rate.valid_on.isoformat(),
        "credit_micros": quote.credit_micros,
        "account_currency": quote.rate.to_currency,
        "expires_at": format_instant(quote.expires_at_us),
    }


def describe_item(item: QueueItem) -> dict[str, Any]:
    return {
        "item_id": item.item_id,
        "kind": item.kind,
        "payment_id": item.payment_id,
        "order_id": item.order_id,
        "amount_micros": item.amount_micros,
        "detail": item.detail,
        "opened_at": format_instant(item.opened_at_us),
        "settled_at": _maybe(item.settled_at_us),
        "resolution": item.resolution,
        "credited_micros": item.credited_micros,
        "actor": item.actor,
        "reason": item.reason,
    }


def describe_refund_request(request: RefundRequest) -> dict[str, Any]:
    return {
        "request_id": request.request_id,
        "payment_id": request.payment_id,
        "refund_id": request.refund_id,
        "amount_micros": request.amount_micros,
        "reason": request.reason,
        "actor": request.actor,
        "requested_at": format_instant(request.requested_at_us),
        "sent_at": _maybe(request.sent_at_us),
        "answered_at": _maybe(request.answered_at_us),
        "failure": request.failure,
    }


def describe_kept(event: Kept) -> dict[str, Any]:
    """Without its body, which names the payer."""
    return {
        "provider": event.provider,
        "event_id": event.event_id,
        "type": event.type,
        "problem": event.problem,
        "body_bytes": len(event.body),
        "first_received_at": format_instant(event.first_received_at_us),
    }


def describe_entry(entry: HistoryEntry) -> dict[str, Any]:
    order = entry.order
    head: dict[str, Any] = {"order_id": None, "state": None}
    if order is not None:
        head = {
            "order_id": order["order_id"],
            "state": order["state"],
            "provider": order["provider"],
            "amount": format_micros(order["amount_micros"]),
            "currency": order["currency"],
            "credit_micros": order["credit_micros"],
            "account_currency": order["account_currency"],
            "rate": None if order["rate_date"] is None else format_rate(order["rate_e12"]),
            "rate_date": None if order["rate_date"] is None else order["rate_date"].isoformat(),
            "created_at": format_instant(order["created_at"]),
        }
    return {**head, "payments": [describe_payment(item, order) for item in entry.payments]}


def describe_payment(payment: HistoryPayment, order: asyncpg.Record | None) -> dict[str, Any]:
    """A payment as it was settled: the order's rate is its own only where it was paid and credited as agreed."""
    row = payment.row
    settled = (row["paid_micros"], row["paid_currency"], row["credit_micros"])
    rate = rate_date = None
    terms = None if order is None else (order["amount_micros"], order["currency"], order["credit_micros"])
    if order is not None and settled == terms and order["rate_date"] is not None:
        rate, rate_date = format_rate(order["rate_e12"]), order["rate_date"].isoformat()
    return {
        "rate": rate,
        "rate_date": rate_date,
        "account_currency": row["account_currency"],
        "payment_id": row["payment_id"],
        "provider": row["provider"],
        "reference": row["reference"],
        "amount": format_micros(row["paid_micros"]),
        "currency": row["paid_currency"],
        "credit_micros": row["credit_micros"],
        "paid_at": format_instant(row["paid_at"]),
        "credited_at": _maybe(row["credited_at"]),
        "receipt": row["receipt"],
        "refunds": [
            {
                "refund_id": refund["refund_id"],
                "amount": format_micros(refund["amount_micros"]),
                "state": refund["state"],
                "at": format_instant(refund["at"]),
            }
            for refund in payment.refunds
        ],
        "disputes": [
            {
                "dispute_id": dispute["dispute_id"],
                "amount": format_micros(dispute["amount_micros"]),
                "outcome": dispute["outcome"],
                "withdrawn": dispute["withdrawn"],
                "at": format_instant(dispute["at"]),
            }
            for dispute in payment.disputes
        ],
    }


def _maybe(instant_us: int | None) -> str | None:
    return None if instant_us is None else format_instant(instant_us)
