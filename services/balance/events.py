"""Account events as messages of the outbox."""

from services.balance.rules.crossing import Standing, Told
from shared.events.account import AccountData, AccountEvent
from shared.outbox import Message
from shared.topics import ACCOUNT_EVENTS


def account_message(shard: int, region: str, tenant_id: str, currency: str, told: Told, posted_at_us: int) -> Message:
    """One event of an account on its shard's stream, keyed "region/tenant"."""
    standing: Standing = told.standing
    subject = f"{region}/{tenant_id}"
    credit = told.movement
    event = AccountEvent(
        id=f"{subject}/{standing.account_version}",
        type=told.type,
        subject=subject,
        time=posted_at_us,
        data=AccountData(
            region=region,
            tenant_id=tenant_id,
            account_version=standing.account_version,
            currency=currency,
            state=standing.state,
            balance_micros=standing.balance_micros,
            spendable_micros=standing.spendable_micros,
            burn_micros_per_hour=standing.burn_micros_per_hour,
            negative_since=standing.negative_since_us,
            amount_micros=None if credit is None else credit.delta_micros,
            credit_id=None if credit is None else credit.credit_id,
            credit_kind=None if credit is None else credit.credit_kind,
        ),
    )
    return Message(shard, ACCOUNT_EVENTS, subject.encode(), event.model_dump_json().encode())
