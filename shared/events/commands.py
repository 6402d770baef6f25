"""`container.commands.v1`: what enforcement asks of a platform. A platform obeys only before `expires_at`."""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from shared.events.cloudevents import Identifier, RegionName, SentInstant, TenantId

SOURCE: Final = "tollkeeper/enforcement"


class Run(BaseModel):
    """A run is named by the (source, id) of its `container.started`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Identifier
    event_id: Identifier


class StopData(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    region: RegionName
    tenant_id: TenantId
    run: Run
    account_version: int
    attempt: int
    expires_at: SentInstant


class DeleteData(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    region: RegionName
    tenant_id: TenantId
    permit_id: Identifier
    negative_since: SentInstant
    expires_at: SentInstant


class _Command(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    specversion: Literal["1.0"] = "1.0"
    id: Identifier
    source: Literal["tollkeeper/enforcement"] = SOURCE
    subject: Identifier  # the resource's id
    time: SentInstant
    datacontenttype: Literal["application/json"] = "application/json"


class StopCommand(_Command):
    type: Literal["container.stop"] = "container.stop"
    data: StopData


class DeleteCommand(_Command):
    type: Literal["container.delete", "volume.delete"]
    data: DeleteData
