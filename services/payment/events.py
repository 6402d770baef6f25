"""What payment tells the others, as messages of the outbox."""

from dataclasses import dataclass

from services.payment.providers import ProviderName
from services.payment.rules.decision import (
    Captured,
    DisputeClosedTold,
    DisputeTold,
    OrderFailed,
    RefundTold,
    Told,
)
from shared.events.payments import (
    AutoTopUpSuspended,
    AutoTopUpSuspendedData,
    CapturedData,
    DisputeClosedData,
    DisputedData,
    FailedData,
    PaymentCaptured,
    PaymentDisputeClosed,
    PaymentDisputed,
    PaymentEvent,
    PaymentFailed,
    PaymentRefunded,
    PaymentRefundFailed,
    RefundData,
)
from shared.ids import shard_of
from shared.outbox import Message
from shared.topics import PAYMENT_EVENTS


@dataclass(frozen=True, slots=True)
class Account:
    """Whose account an event is about, and by which provider."""

    region: str
    tenant_id: str
    provider: ProviderName
    currency: str
    order_id: str | None


def payment_message(account: Account, told: Told, at_us: int, shards: int) -> Message:
    """One event on its account's stream, keyed "region/tenant"; ids are derived from the fact (shared/events)."""
    subject = f"{account.region}/{account.tenant_id}"
    event = _make(account, told, {"subject": subject, "time": at_us})
    stream = shard_of(account.region, account.tenant_id, shards)
    return Message(stream, PAYMENT_EVENTS, subject.encode(), event.model_dump_json().encode())


def suspension_message(
    region: str, tenant_id: str, number: int, reason: str, action_url: str | None, at_us: int, shards: int
) -> Message:
    """Automatic top-up stopped for the `number`th time."""
    subject = f"{region}/{tenant_id}"
    event = AutoTopUpSuspended(
        id=f"auto_top_up_suspended/{subject}/{number}",
        subject=subject,
        time=at_us,
        data=AutoTopUpSuspendedData(region=region, tenant_id=tenant_id, reason=reason, action_url=action_url),
    )
    stream = shard_of(region, tenant_id, shards)
    return Message(stream, PAYMENT_EVENTS, subject.encode(), event.model_dump_json().encode())


def _make(account: Account, told: Told, envelope: dict[str, object]) -> PaymentEvent:
    who = {"region": account.region, "tenant_id": account.tenant_id, "provider": account.provider}
    if isinstance(told, OrderFailed):
        failed = FailedData.model_validate({**who, "order_id": told.order_id, "reason": told.reason[:200]})
        return PaymentFailed.model_validate({**envelope, "id": f"failed/{told.order_id}", "data": failed})
    about = {**who, "payment_id": told.payment_id, "order_id": account.order_id, "currency": account.currency}
    match told:
        case Captured():
            paid = {"paid_micros": told.paid.amount_micros, "paid_currency": told.paid.currency}
            captured = CapturedData.model_validate({**about, "amount_micros": told.credit_micros, **paid})
            return PaymentCaptured.model_validate({**envelope, "id": f"captured/{told.payment_id}", "data": captured})
        case RefundTold():
            refund = RefundData.model_validate(
                {
                    **about,
                    "refund_id": told.refund_id,
                    "amount_micros": told.credit_micros,
                    "refunded_micros": told.refunded_micros,
                }
            )
            if told.failed:
                name = f"refund_failed/{told.refund_id}"
                return PaymentRefundFailed.model_validate({**envelope, "id": name, "data": refund})
            return PaymentRefunded.model_validate({**envelope, "id": f"refunded/{told.refund_id}", "data": refund})
        case DisputeTold():
            disputed = DisputedData.model_validate(
                {
                    **about,
                    "dispute_id": told.dispute_id,
                    "held_micros": told.held_micros,
                    "withdrawn_micros": told.withdrawn_micros,
                    "disputed_micros": told.disputed_micros,
                }
            )
            name = f"disputed/{told.dispute_id}/{told.step}"
            return PaymentDisputed.model_validate({**envelope, "id": name, "data": disputed})
        case DisputeClosedTold():
            closed = DisputeClosedData.model_validate(
                {
                    **about,
                    "dispute_id": told.dispute_id,
                    "outcome": told.outcome,
                    "returned_micros": told.returned_micros,
                    "withdrawn_micros": told.withdrawn_micros,
                    "disputed_micros": told.disputed_micros,
                }
            )
            name = f"dispute_closed/{told.dispute_id}/{told.outcome}"
            return PaymentDisputeClosed.model_validate({**envelope, "id": name, "data": closed})
