"""`service.events.v1`: what a service says of itself. Compacted: the last event of each kind and service stays.

A service whose database was set back to a backup publishes `service.restored` before it does anything else, with a
higher incarnation than ever before. Deletions stay frozen until an operator confirms it.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from shared.errors import RecordError
from shared.events.cloudevents import Identifier, SentInstant, load_envelope
from shared.events.reading import Read, Vocabulary, is_known_type, read_as, read_union
from shared.kafka import Record
from shared.topics import SERVICE_EVENTS

ServiceName = Literal["metering", "balance", "payment", "enforcement"]
Incarnation = Annotated[int, Field(strict=True, ge=1, lt=2**22)]
SOURCES: Final = {name: f"tollkeeper/{name}" for name in ("metering", "balance", "payment", "enforcement")}


class RestoredData(BaseModel):
    """`told_until`: the latest instant of an event that was published and that the restored database did not have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    service: Annotated[Identifier, Vocabulary(ServiceName)]
    incarnation: Incarnation
    restored_at: SentInstant
    told_until: SentInstant | None


class ConfirmedData(BaseModel):
    """An operator has looked at what was lost with this incarnation and those before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    service: Annotated[Identifier, Vocabulary(ServiceName)]
    incarnation: Incarnation
    confirmed_at: SentInstant
    actor: str
    reason: str


class _Event(BaseModel):
    """A CloudEvent; `id` is "service/kind/incarnation", `subject` and key name the service."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    specversion: Literal["1.0"] = "1.0"
    id: Identifier
    source: Identifier
    subject: Identifier
    time: SentInstant
    datacontenttype: Literal["application/json"] = "application/json"


class ServiceRestored(_Event):
    type: Literal["service.restored"] = "service.restored"
    data: RestoredData


class ServiceRestoreConfirmed(_Event):
    type: Literal["service.restore_confirmed"] = "service.restore_confirmed"
    data: ConfirmedData


ServiceEvent = Annotated[ServiceRestored | ServiceRestoreConfirmed, Field(discriminator="type")]

_READER: Final[TypeAdapter[ServiceRestored | ServiceRestoreConfirmed]] = TypeAdapter(ServiceEvent)


def read_service_event(record: Record) -> ServiceRestored | ServiceRestoreConfirmed | None:
    """None for a type that this version does not know. Raises RecordError."""
    envelope = load_envelope(record)
    known = is_known_type(envelope, ("service.restored", "service.restore_confirmed"), SERVICE_EVENTS)
    return read_union(_READER, envelope) if known else None


class _IncarnationData(Read):
    service: str
    incarnation: Incarnation


class _IncarnationRead(Read):
    data: _IncarnationData


def read_incarnation(event: Mapping[str, object], service: ServiceName) -> int:
    """The incarnation that an event gives of a service; 0 where it gives none."""
    try:
        data = read_as(_IncarnationRead, event).data
    except RecordError:
        return 0
    return data.incarnation if data.service == service else 0
