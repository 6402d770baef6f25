"""`payment.events.v1`: what payment providers did with a customer's money. Balance turns each fact into entries once.

`id` is derived from the fact, never from the delivery. Amounts are micros of the account's currency: conversion is
over when an event is published; `paid_micros` and `paid_currency` say what the customer gave.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from shared.errors import RecordError
from shared.events.cloudevents import Identifier, RegionName, SentInstant, TenantId
from shared.events.reading import Vocabulary, read_union

SOURCE: Final = "tollkeeper/payment"

Provider = Literal["stripe", "vnpay"]
Outcome = Literal["won", "lost"]
# Balance credits what a provider that it has never heard of captured: a reader takes any word.
ProviderWord = Annotated[Identifier, Vocabulary(Provider)]
Currency = Annotated[str, Field(pattern="^[A-Z]{3}$")]
Positive = Annotated[int, Field(strict=True, gt=0, le=2**63 - 1)]
Natural = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    region: RegionName
    tenant_id: TenantId


class _PaymentData(_Data):
    """About one captured payment. `payment_id` is "stripe:<intent>" or "vnpay:<reference>:<transaction>"."""

    provider: ProviderWord
    payment_id: Identifier
    order_id: Identifier | None
    currency: Currency  # the account's


class CapturedData(_PaymentData):
    """Money came in; credit `amount_micros`."""

    amount_micros: Positive
    paid_micros: Positive
    paid_currency: Currency


class RefundData(_PaymentData):
    """Money went back, or (`refund_failed`) did not after all: `amount_micros` at the order's rate.

    `refunded_micros` is the whole refund in the customer's currency; older versions did not say it.
    """

    refund_id: Identifier
    amount_micros: Positive
    refunded_micros: Positive | None = None


class DisputedData(_PaymentData):
    """A dispute holds `held_micros` in all from now on (not spendable); `withdrawn_micros` left with this fact.

    `disputed_micros` is the whole dispute in the customer's currency; older versions did not say it.
    """

    dispute_id: Identifier
    held_micros: Natural
    withdrawn_micros: Natural
    disputed_micros: Positive | None = None


class DisputeClosedData(_PaymentData):
    """A dispute ended: nothing is held any more; of what was withdrawn, `returned_micros` came back with this fact.

    `disputed_micros` as in DisputedData.
    """

    dispute_id: Identifier
    outcome: Annotated[Identifier, Vocabulary(Outcome)]
    returned_micros: Natural
    withdrawn_micros: Natural
    disputed_micros: Positive | None = None


class FailedData(_Data):
    """An order ended without money: the provider refused finally, or the order expired unpaid."""

    provider: ProviderWord
    order_id: Identifier
    reason: Annotated[str, Field(max_length=200)]


class AutoTopUpSuspendedData(_Data):
    """Automatic top-up stopped by itself; the customer must come back. `reason` is a code, such as `declined`."""

    reason: Identifier
    action_url: Annotated[str, Field(max_length=500)] | None = None


class _Event(BaseModel):
    """A CloudEvent; `subject` is "region/tenant"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    specversion: Literal["1.0"] = "1.0"
    id: Identifier
    source: Literal["tollkeeper/payment"] = SOURCE
    subject: Identifier
    time: SentInstant
    datacontenttype: Annotated[str, Vocabulary(Literal["application/json"])] = "application/json"


class PaymentCaptured(_Event):
    """`id` is "captured/<payment_id>"."""

    type: Literal["payment.captured"] = "payment.captured"
    data: CapturedData


class PaymentRefunded(_Event):
    """`id` is "refunded/<refund_id>"."""

    type: Literal["payment.refunded"] = "payment.refunded"
    data: RefundData


class PaymentRefundFailed(_Event):
    """`id` is "refund_failed/<refund_id>"."""

    type: Literal["payment.refund_failed"] = "payment.refund_failed"
    data: RefundData


class PaymentDisputed(_Event):
    """`id` is "disputed/<dispute_id>/opened" or "…/withdrawn"."""

    type: Literal["payment.disputed"] = "payment.disputed"
    data: DisputedData


class PaymentDisputeClosed(_Event):
    """`id` is "dispute_closed/<dispute_id>/won" or "…/lost"."""

    type: Literal["payment.dispute_closed"] = "payment.dispute_closed"
    data: DisputeClosedData


class PaymentFailed(_Event):
    """`id` is "failed/<order_id>"."""

    type: Literal["payment.failed"] = "payment.failed"
    data: FailedData


class AutoTopUpSuspended(_Event):
    """`id` is "auto_top_up_suspended/<region>/<tenant>/<number>"."""

    type: Literal["auto_top_up.suspended"] = "auto_top_up.suspended"
    data: AutoTopUpSuspendedData


PaymentEvent = Annotated[
    PaymentCaptured
    | PaymentRefunded
    | PaymentRefundFailed
    | PaymentDisputed
    | PaymentDisputeClosed
    | PaymentFailed
    | AutoTopUpSuspended,
    Field(discriminator="type"),
]

_MODELS: tuple[type[BaseModel], ...] = get_args(get_args(PaymentEvent)[0])
PAYMENT_TYPES: frozenset[str] = frozenset(model.model_fields["type"].default for model in _MODELS)

_READER: Final[TypeAdapter[PaymentEvent]] = TypeAdapter(PaymentEvent)


def read_payment_event(event: Mapping[str, object]) -> PaymentEvent | None:
    """An event of this contract, with all that its type requires; None for any other."""
    try:
        return read_union(_READER, event)
    except RecordError:
        return None
