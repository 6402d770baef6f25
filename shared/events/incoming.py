"""Events on their way in: checked against the contract before they are published, told apart by type."""

from dataclasses import dataclass

from shared.errors import RecordError
from shared.events.cloudevents import EVENT_BYTES_MAX, load_event
from shared.events.lifecycle import LIFECYCLE_TYPES, RETRACTED_TYPE, LifecycleEvent, read_lifecycle
from shared.events.usage import USAGE_TYPE, read_usage
from shared.topics import LIFECYCLE, USAGE


@dataclass(frozen=True, slots=True)
class IncomingEvent:
    """What is published of an event: its own bytes under its owner's key. `region` is the one that it names."""

    topic: str
    key: bytes
    value: bytes
    region: str


def check_event(value: bytes) -> IncomingEvent:
    """The event in a structured CloudEvent's bytes, if a service would accept it. Raises RecordError.

    A service passes over types that it does not know; whoever publishes is told, for a misspelt type charges nobody.
    """
    if len(value) > EVENT_BYTES_MAX:
        raise RecordError("too large", f"{len(value)} bytes; an event may have {EVENT_BYTES_MAX}")
    envelope = load_event(value)
    kind = envelope.get("type")
    # A retraction without a subject takes out usage: only resources have one.
    if kind == USAGE_TYPE or (kind == RETRACTED_TYPE and "subject" not in envelope):
        recorded = read_usage(envelope)
        assert recorded is not None
        usage = recorded.data
        return IncomingEvent(USAGE, f"{usage.region}/{usage.tenant_id}".encode(), value, usage.region)
    if not isinstance(kind, str) or kind not in LIFECYCLE_TYPES:
        raise RecordError("unknown type", f"{str(kind)[:100]!r} is no type of an event")
    event = read_lifecycle(envelope)
    assert event is not None
    # A listing belongs to no tenant: its pages stay together.
    owner = event.data.tenant_id if isinstance(event, LifecycleEvent) else event.source
    return IncomingEvent(LIFECYCLE, f"{event.data.region}/{owner}".encode(), value, event.data.region)
