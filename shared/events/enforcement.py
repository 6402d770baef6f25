"""`enforcement.events.v1`: what enforcement did or plans, and to whom."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from shared.events.cloudevents import Identifier, Instant, RegionName, TenantId
from shared.events.commands import SOURCE, Run

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
    negative_since: Instant | None = None
    due_at: Instant | None = None
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
    time: Instant
    datacontenttype: Literal["application/json"] = "application/json"
    data: EnforcementData
