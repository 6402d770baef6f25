"""`container.commands.v1`: what enforcement asks of a platform.

A command was right when it was given; it is carried out later. So a platform

- obeys only before `expires_at`, and answers by publishing `container.stopped`, `container.deleted` or
  `volume.deleted`: what is not confirmed is asked for again, under the next attempt's id;
- asks balance again right before it carries a command out. Delete: `POST /v1/deletion-permits/{permit_id}/redemptions`
  with `{"resource_id": subject}`; 200 means go ahead, and 409 that the permit is void (the account was credited,
  ordered a payment or is not below zero any more) or that nobody commanded this deletion. Without a 200 nothing is
  destroyed. Stop: `GET /v1/accounts/{region}/{tenant_id}`; whoever is above zero again runs on.
"""

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
    """The run to stop, because its account is at or below zero as of `account_version`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    region: RegionName
    tenant_id: TenantId
    run: Run
    account_version: int
    attempt: int
    expires_at: SentInstant


class DeleteData(BaseModel):
    """`permit_id`: balance's consent, redeemed for this resource; redeem it again right before destroying anything."""

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
    """Stop one run before `expires_at`, if the account is still at or below zero; confirm with `container.stopped`.

    Right before: `GET /v1/accounts/{region}/{tenant_id}` of balance. State `exhausted` or `negative`: stop. Another
    state: the account recovered, the run goes on. No answer: stop; a stop loses no data.
    """

    type: Literal["container.stop"] = "container.stop"
    data: StopData


class DeleteCommand(_Command):
    """Delete one resource before `expires_at`, if balance still consents; confirm with `….deleted`.

    Right before: `POST /v1/deletion-permits/{permit_id}/redemptions` of balance with `{"resource_id": subject}`, which
    is idempotent. 200: destroy it. 409: the permit is void, do nothing. No answer: do nothing, the command is repeated.
    """

    type: Literal["container.delete", "volume.delete"]
    data: DeleteData
