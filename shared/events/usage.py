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
from shared.events.reading import is_known_type, read_as
from shared.ids import content_hash
from shared.kafka import Record
from shared.topics import USAGE

USAGE_TYPE: Final = "service.usage"


class UsageData(BaseModel):
    """`quantity` whole units of `sku` (the price book says how many units its price is for) used in [from, to)."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    region: RegionName
    tenant_id: TenantId
    sku: Sku
    quantity: Annotated[int, Field(strict=True, ge=0, le=10**15)]
    from_us: Annotated[Instant, Field(alias="from")]
    to_us: Annotated[Instant, Field(alias="to")]

    @model_validator(mode="after")
    def _interval_is_forward(self) -> Self:
        if self.to_us < self.from_us:
            raise ValueError("to is before from")
        return self


class UsageRecorded(BaseModel):
    """One usage record, unique by (source, id), priced at the interval's start."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    specversion: Literal["1.0"]
    id: Identifier
    source: Identifier
    type: Literal["service.usage"]
    time: Instant
    datacontenttype: JsonContentType | None = None
    data: UsageData

    def fingerprint(self) -> bytes:
        data = self.data
        return content_hash(
            orjson.dumps([data.region, data.tenant_id, data.sku, data.quantity, data.from_us, data.to_us])
        )


def parse_usage(record: Record) -> UsageRecorded | None:
    """Read a record of the usage topic; None for an event of an unknown type. Raises RecordError."""
    return read_usage(load_envelope(record))


def read_usage(envelope: dict[str, Any]) -> UsageRecorded | None:
    """Validate a CloudEvent as a usage record; None for one of an unknown type. Raises RecordError."""
    return read_as(UsageRecorded, envelope) if is_known_type(envelope, {USAGE_TYPE}, USAGE) else None
