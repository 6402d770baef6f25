"""Facts of payment made by hand, out of the contract's own models."""

from shared.events.payments import (
    CapturedData,
    DisputeClosedData,
    DisputedData,
    FailedData,
    PaymentCaptured,
    PaymentDisputeClosed,
    PaymentDisputed,
    PaymentFailed,
    PaymentRefunded,
    PaymentRefundFailed,
    RefundData,
)

AT_US = 1_800_000_000_000_000


def captured(
    payment: str,
    amount: int,
    *,
    tenant: str = "acme",
    order: str | None = None,
    region: str = "vn",
    currency: str = "VND",
) -> PaymentCaptured:
    return PaymentCaptured(
        id=f"captured/{payment}",
        subject=f"{region}/{tenant}",
        time=AT_US,
        data=CapturedData(
            region=region,
            tenant_id=tenant,
            provider="stripe",
            payment_id=payment,
            order_id=order,
            currency=currency,
            amount_micros=amount,
            paid_micros=amount,
            paid_currency=currency,
        ),
    )


def _refund(payment: str, refund: str, amount: int, tenant: str) -> RefundData:
    return RefundData(
        region="vn",
        tenant_id=tenant,
        provider="stripe",
        payment_id=payment,
        order_id=None,
        currency="VND",
        refund_id=refund,
        amount_micros=amount,
    )


def refunded(payment: str, refund: str, amount: int, *, tenant: str = "acme") -> PaymentRefunded:
    data = _refund(payment, refund, amount, tenant)
    return PaymentRefunded(id=f"refunded/{refund}", subject=f"vn/{tenant}", time=AT_US, data=data)


def refund_failed(payment: str, refund: str, amount: int, *, tenant: str = "acme") -> PaymentRefundFailed:
    data = _refund(payment, refund, amount, tenant)
    return PaymentRefundFailed(id=f"refund_failed/{refund}", subject=f"vn/{tenant}", time=AT_US, data=data)


def disputed(payment: str, dispute: str, *, held: int = 0, withdrawn: int = 0, tenant: str = "acme") -> PaymentDisputed:
    step = "withdrawn" if withdrawn else "opened"
    return PaymentDisputed(
        id=f"disputed/{dispute}/{step}",
        subject=f"vn/{tenant}",
        time=AT_US,
        data=DisputedData(
            region="vn",
            tenant_id=tenant,
            provider="stripe",
            payment_id=payment,
            order_id=None,
            currency="VND",
            dispute_id=dispute,
            held_micros=held,
            withdrawn_micros=withdrawn,
        ),
    )


def dispute_closed(
    payment: str, dispute: str, *, returned: int = 0, withdrawn: int = 0, tenant: str = "acme"
) -> PaymentDisputeClosed:
    outcome = "lost" if withdrawn else "won"
    return PaymentDisputeClosed(
        id=f"dispute_closed/{dispute}/{outcome}",
        subject=f"vn/{tenant}",
        time=AT_US,
        data=DisputeClosedData(
            region="vn",
            tenant_id=tenant,
            provider="stripe",
            payment_id=payment,
            order_id=None,
            currency="VND",
            dispute_id=dispute,
            outcome="lost" if withdrawn else "won",
            returned_micros=returned,
            withdrawn_micros=withdrawn,
        ),
    )


def failed(order: str, *, tenant: str = "acme") -> PaymentFailed:
    data = FailedData(region="vn", tenant_id=tenant, provider="stripe", order_id=order, reason="expired")
    return PaymentFailed(id=f"failed/{order}", subject=f"vn/{tenant}", time=AT_US, data=data)
