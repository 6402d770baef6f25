"""`enforcement.events.v1`: what enforcement did or plans, and to whom."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from shared.events.cloudevents import Identifier, Instant, RegionName, SentInstant, TenantId, load_envelope
from shared.events.commands import SOURCE, Run
from shared.events.reading import Read, is_known_type, read_as
from shared.kafka import Record
from shared.topics import ENFORCEMENT_EVENTS

EnforcementEventType = Literal[
    "stop.requested",
    "stop.confirmed",
    "deletion.scheduled",
    "deletion.reminder",
    "deletion.cancelled",
    "deletion.frozen",
    "deletion.commanded",
    "deletion.abandoned",
    "deletion.done",
]


class EnforcementData(BaseModel):
    """`case_id` names a deletion case: region/tenant/negative_since. Resource fields are set where one is meant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    region: RegionName
    tenant_id: TenantId
    resource_id: Identifier | None = None
    run: Run | None = None
    case_id: Identifier | None = None
    negative_since: SentInstant | None = None
    due_at: SentInstant | None = None
    permit_id: Identifier | None = None
    reason: str | None = None


class EnforcementEvent(BaseModel):
    """A CloudEvent; `subject` is the resource's id, or "region/tenant" for a case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    specversion: Literal["1.0"] = "1.0"
    id: Identifier
    source: Literal["tollkeeper/enforcement"] = SOURCE
    type: EnforcementEventType
    subject: Identifier
    time: SentInstant
    datacontenttype: Literal["application/json"] = "application/json"
    data: EnforcementData


class DeletionReadData(Read):
    region: RegionName
    tenant_id: TenantId
    resource_id: Identifier | None = None


class DeletionRead(Read):
    """What becomes of a resource, for who charges for it: its deletion was commanded, or given up."""

    specversion: Literal["1.0"]
    id: Identifier
    source: Identifier
    type: Literal["deletion.commanded", "deletion.abandoned"]
    subject: Identifier
    time: Instant
    data: DeletionReadData


_TYPES = frozenset(get_args(EnforcementEventType))
_OF_DELETIONS = frozenset(get_args(DeletionRead.model_fields["type"].annotation))


def parse_deletion(record: Record) -> DeletionRead | None:
    """A resource's deletion as a record tells of it; None for enforcement's other events. Raises RecordError."""
    envelope = load_envelope(record)
    if not is_known_type(envelope, _TYPES, ENFORCEMENT_EVENTS) or envelope["type"] not in _OF_DELETIONS:
        return None
    event = read_as(DeletionRead, envelope)
    return None if event.data.resource_id is None else event
