"""Kafka in: records become facts that the rules understand, or dead letters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from services.enforcement.rules.account import Account, AccountKey
from services.enforcement.rules.lifecycle import Fact, FactKey
from services.enforcement.rules.resource import Family, ResourceKey
from shared.clock import DAY_US, MINUTE_US, parse_instant
from shared.errors import RecordError
from shared.events.account import AccountEventType, AccountState, AccountVersion
from shared.events.cloudevents import Instant, Micros, RegionName, TenantId, load_envelope
from shared.events.lifecycle import RETRACTED_TYPE, LifecycleEvent, read_lifecycle
from shared.events.reading import Read, is_known_type, read_as
from shared.events.service import ServiceRestoreConfirmed, ServiceRestored, read_service_event
from shared.kafka import Record
from shared.settings import Region
from shared.topics import ACCOUNT_EVENTS, SERVICE_EVENTS

# Clocks of producers run ahead a little; what is further ahead waits until it is due.
AHEAD_US_MAX = 5 * MINUTE_US


@dataclass(frozen=True, slots=True)
class LifecycleFact:
    key: ResourceKey
    fact: Fact


@dataclass(frozen=True, slots=True)
class FutureFact:
    """A lifecycle event from beyond the present: `envelope` is kept and read again at `due_at_us`."""

    source: str
    event_id: str
    subject: str
    due_at_us: int
    envelope: dict[str, object]


class _AccountReadData(Read):
    region: RegionName
    tenant_id: TenantId
    account_version: AccountVersion
    state: AccountState
    balance_micros: Micros
    negative_since: Instant | None
    credit_id: str | None = None
    credit_kind: str | None = None


class _AccountRead(Read):
    specversion: Literal["1.0"]
    data: _AccountReadData


_ACCOUNT_TYPES = frozenset(get_args(AccountEventType))

Known = Account | LifecycleFact | FutureFact | ServiceRestored | ServiceRestoreConfirmed


def read_record(record: Record, regions: Mapping[str, Region], now_us: int) -> Known | None:
    """What a record says; None for what enforcement has no use for. Raises RecordError."""
    if record.topic == SERVICE_EVENTS:
        return read_service_event(record)
    envelope = load_envelope(record)
    if record.topic == ACCOUNT_EVENTS:
        known = is_known_type(envelope, _ACCOUNT_TYPES, ACCOUNT_EVENTS)
        return read_account(envelope, regions) if known or envelope["type"].startswith("account.") else None
    return read_envelope(envelope, regions, now_us)


def read_account(envelope: dict[str, object], regions: Mapping[str, Region]) -> Account:
    """What an account event says of the account: every type carries it, a later one too. Raises RecordError."""
    data = read_as(_AccountRead, envelope).data
    _check_region(data.region, regions)
    key = AccountKey(data.region, data.tenant_id)
    credited = None if data.credit_id is None else f"{data.credit_kind} {data.credit_id}"
    return Account(
        *(key, data.account_version, data.state, data.balance_micros, data.negative_since, credited),
        told_at_us=_told_at(envelope),
    )


def _told_at(envelope: Mapping[str, object]) -> int | None:
    """The time of an account event; None where it says none, which only makes it be asked again."""
    time = envelope.get("time")
    try:
        return parse_instant(time) if isinstance(time, str) else None
    except ValueError:
        return None


def read_envelope(envelope: dict[str, object], regions: Mapping[str, Region], now_us: int) -> Known | None:
    """Read a lifecycle event. A listing (`inventory.observed`) is not acted on: what is absent proves nothing."""
    event = read_lifecycle(envelope)
    if not isinstance(event, LifecycleEvent):
        return None
    region = _check_region(event.data.region, regions)
    if event.time < region.opened_at_us:
        raise RecordError("before the region", f"the region {event.data.region!r} opened at {region.opened_at}")
    if event.time > now_us + DAY_US:
        raise RecordError("from the future", "the event is more than a day ahead of the clock")
    if event.time > now_us + AHEAD_US_MAX:
        return FutureFact(event.source, event.id, event.subject, event.time, envelope)
    return _read_fact(event)


def _read_fact(event: LifecycleEvent) -> LifecycleFact:
    data = event.data
    family, verb = event.type.split(".")
    if event.type == RETRACTED_TYPE:
        # It names no family; whoever applies it looks at what the resource is.
        family = "container"
    replaces = None if data.replaces is None else FactKey(*data.replaces.key)
    key = ResourceKey(data.region, event.subject, data.tenant_id, cast("Family", family))
    return LifecycleFact(key, Fact(verb, event.time, event.source, event.id, data.sequence, data.run_id, replaces))


def _check_region(region: str, regions: Mapping[str, Region]) -> Region:
    known = regions.get(region)
    if known is None:
        raise RecordError("unknown region", f"{region!r} is no region of this deployment")
    return known
