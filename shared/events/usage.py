"""`service.usage.v1`: quantities that other services of the cloud want charged."""

from typing import Annotated, Any, Final, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.events.cloudevents import (
    Identifier,
    Instant,
    JsonContentType,
    RegionName,
    Sku,
    TenantId,
    load_envelope,
)
from shared.events.lifecycle import RETRACTED_TYPE, AmendmentReason, EventReference
from shared.events.reading import is_known_type, read_as
from shared.ids import content_hash
from shared.kafka import Record
from shared.topics import USAGE

USAGE_TYPE: Final = "service.usage"
USAGE_TYPES = frozenset((USAGE_TYPE, RETRACTED_TYPE))


class UsageData(BaseModel):
    """`quantity` whole units of `sku` (the price book says how many units its price is for) used in [from, to).

    `replaces` takes an earlier usage record of the same tenant out and puts this one in; `reason` says why.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    region: RegionName
    tenant_id: TenantId
    sku: Sku
    quantity: Annotated[int, Field(strict=True, ge=0, le=10**15)]
    from_us: Annotated[Instant, Field(alias="from")]
    to_us: Annotated[Instant, Field(alias="to")]
    replaces: EventReference | None = None
    reason: AmendmentReason | None = None

    @model_validator(mode="after")
    def _interval_is_forward(self) -> Self:
        if self.to_us < self.from_us:
            raise ValueError("to is before from")
        return self


class _Envelope(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    specversion: Literal["1.0"]
    id: Identifier
    source: Identifier
    time: Instant
    datacontenttype: JsonContentType | None = None


class UsageRecorded(_Envelope):
    """One usage record, unique by (source, id), priced at the interval's start."""

    type: Literal["service.usage"]
    data: UsageData

    @model_validator(mode="after")
    def _replaces_another(self) -> Self:
        if self.data.replaces is not None and self.data.replaces.key == (self.source, self.id):
            raise ValueError("an event can't replace itself")
        return self

    def fingerprint(self) -> bytes:
        data = self.data
        said = [data.region, data.tenant_id, data.sku, data.quantity, data.from_us, data.to_us]
        return content_hash(orjson.dumps([*said, None if data.replaces is None else data.replaces.key]))


class RetractionData(BaseModel):
    """The usage record of the same tenant that is taken out, and why."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    region: RegionName
    tenant_id: TenantId
    replaces: EventReference
    reason: AmendmentReason | None = None


class UsageRetracted(_Envelope):
    """An earlier usage record never was."""

    type: Literal["event.retracted"]
    data: RetractionData

    def fingerprint(self) -> bytes:
        data = self.data
        return content_hash(orjson.dumps([self.type, data.region, data.tenant_id, data.replaces.key]))


def parse_usage(record: Record) -> UsageRecorded | UsageRetracted | None:
    """Read a record of the usage topic; None for an event of an unknown type. Raises RecordError."""
    return read_usage(load_envelope(record))


def read_usage(envelope: dict[str, Any]) -> UsageRecorded | UsageRetracted | None:
    """Validate a CloudEvent as a usage record or its retraction; None for one of an unknown type.

    Raises RecordError.
    """
    if not is_known_type(envelope, USAGE_TYPES, USAGE):
        return None
    if envelope["type"] == RETRACTED_TYPE:
        return read_as(UsageRetracted, envelope)
    return read_as(UsageRecorded, envelope)


def read_usage_json(body: bytes) -> UsageRecorded | UsageRetracted:
    """Read what was validated before. Raises RecordError."""
    found = read_usage(orjson.loads(body))
    assert found is not None, "it was of a known type"
    return found
