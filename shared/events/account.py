"""`account.events.v1`: what balance says of an account. Each event raises `account_version` by one."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.errors import RecordError
from shared.events.cloudevents import Identifier, Micros, RegionName, SentInstant, TenantId
from shared.events.reading import read_as

AccountState = Literal["opened", "ok", "low", "exhausted", "negative"]
AccountEventType = Literal[
    "account.opened",
    "account.low",
    "account.exhausted",
    "account.negative",
    "account.recovered",
    "account.credited",
    # Where an account stands after balance's database was set back: what was told of it since the backup is void.
    "account.restated",
]
CreditKind = Literal["payment", "refund_failed", "dispute_won", "adjustment", "voucher", "promotion"]
# What an entry of the ledger is. Its other side is the account "customer".
EntryClass = Literal[
    "charge",
    "credit_correction",
    "debit_correction",
    "adjustment",
    "payment",
    "refund",
    "dispute",
    "grant",
    "expiry",
]
GrantKind = Literal["promotion", "voucher"]
SOURCE: Final = "tollkeeper/balance"
# The incarnation of the database and a counter in one number (ADR 13).
AccountVersion = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]


class AccountData(BaseModel):
    """The account as it was right after the entry that raised the event. `negative_since` null cancels a case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    region: RegionName
    tenant_id: TenantId
    account_version: AccountVersion
    currency: str
    state: AccountState
    balance_micros: Micros
    spendable_micros: Micros
    burn_micros_per_hour: Micros
    negative_since: SentInstant | None
    # account.credited names what was credited: a payment by its id, an operator's adjustment by its key, …
    amount_micros: Micros | None = None
    credit_id: Identifier | None = None
    credit_kind: CreditKind | None = None


class AccountEvent(BaseModel):
    """A CloudEvent; `id` is "region/tenant/account_version", `subject` "region/tenant", `time` posting time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    specversion: Literal["1.0"] = "1.0"
    id: Identifier
    source: Literal["tollkeeper/balance"] = SOURCE
    type: AccountEventType
    subject: Identifier
    time: SentInstant
    datacontenttype: Literal["application/json"] = "application/json"
    data: AccountData


def is_account_event(event: Mapping[str, object]) -> bool:
    """Whether it is an event of this contract, with all that it requires."""
    try:
        read_as(AccountEvent, event)
    except RecordError:
        return False
    return True
