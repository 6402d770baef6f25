"""HTTP intake: lifecycle events and usage for platforms without Kafka. What is accepted is on its topic."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Final, Protocol
from urllib.parse import unquote

import orjson
from aiokafka.errors import KafkaError
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from shared.errors import RecordError, Refusal
from shared.events.cloudevents import load_json
from shared.events.incoming import IncomingEvent, check_event
from shared.outbox import CLOUDEVENT_TYPE

EVENTS_MAX: Final = 1000
ERRORS_MAX: Final = 20
SEND_SECONDS: Final = 15.0
_EVENT: Final = "application/cloudevents+json"
_HEADERS: Final = [("content-type", CLOUDEVENT_TYPE.encode())]
_BATCH: Final = "application/cloudevents-batch+json"


class Sender(Protocol):
    """A Kafka producer, as far as intake needs it."""

    async def send_and_wait(self, topic: str, value: bytes, key: bytes, headers: Sequence[tuple[str, bytes]]) -> object:
        """Return once the broker has the record on all replicas in sync. Raises KafkaError."""


class AcceptedAnswer(BaseModel):
    """How many events the broker has now. They are applied within seconds; what contradicts what is known is listed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accepted: Annotated[int, Field(ge=0)]


class EventsApi:
    """The route and what it needs."""

    def __init__(self, sender: Sender, topic_prefix: str, regions: Collection[str]) -> None:
        self._sender = sender
        self._prefix = topic_prefix
        self._regions = regions
        self.router = APIRouter(prefix="/v1/events", tags=["intake"])
        document = {"schema": {"type": "object"}}
        batch = {"schema": {"type": "array", "items": {"type": "object"}, "maxItems": EVENTS_MAX}}
        self.router.add_api_route(
            "",
            self.publish,
            methods=["POST"],
            status_code=202,
            openapi_extra={"requestBody": {"required": True, "content": {_EVENT: document, _BATCH: batch}}},
        )

    async def publish(self, request: Request) -> AcceptedAnswer:
        """Publish one CloudEvent, structured or binary, or a batch of them: all, or nothing where one is refused.

        202 once the broker has them. After anything else send the same again: an event counts once by (source, id).
        Source: CloudEvents 1.0, HTTP protocol binding, section 3.
        """
        events = self._check(_read(request, await request.body()))
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await asyncio.gather(*(self._send(event) for event in events))
        except (KafkaError, TimeoutError) as error:
            detail = "the broker did not take all of it: send the same again"
            raise Refusal("broker-unavailable", detail, status=503) from error
        return AcceptedAnswer(accepted=len(events))

    async def _send(self, event: IncomingEvent) -> None:
        await self._sender.send_and_wait(
            f"{self._prefix}{event.topic}", value=event.value, key=event.key, headers=_HEADERS
        )

    def _check(self, values: list[bytes]) -> list[IncomingEvent]:
        events: list[IncomingEvent] = []
        errors: list[dict[str, object]] = []
        for index, value in enumerate(values):
            try:
                events.append(self._check_one(value))
            except RecordError as error:
                errors.append({"index": index, "reason": error.reason, "detail": error.detail})
        if errors:
            detail = f"{len(errors)} of {len(values)} events are refused, and nothing was published"
            raise Refusal("invalid-events", detail, status=422, errors=errors[:ERRORS_MAX])
        return events

    def _check_one(self, value: bytes) -> IncomingEvent:
        event = check_event(value)
        if event.region not in self._regions:
            known = ", ".join(sorted(self._regions))
            raise RecordError("unknown region", f"region {event.region} is not served here, only {known}")
        return event


def _read(request: Request, body: bytes) -> list[bytes]:
    """The events of a request, each as a structured CloudEvent. Raises Refusal."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == _EVENT:
        return [body]
    if content_type == _BATCH:
        found = _load(body)
        if not isinstance(found, list) or not 0 < len(found) <= EVENTS_MAX:
            raise Refusal("invalid-events", f"a batch is an array of 1 to {EVENTS_MAX} events", status=422)
        return [orjson.dumps(item) for item in found]
    if "ce-specversion" in request.headers:
        return [orjson.dumps({**_attributes(request), "data": _load(body)})]
    raise Refusal("unsupported-media-type", f"send {_EVENT}, {_BATCH}, or JSON data with ce- headers", status=415)


def _load(body: bytes) -> Any:  # noqa: ANN401 - whatever it says
    try:
        return load_json(body)
    except RecordError as error:
        raise Refusal("invalid-events", f"{error.reason}: {error.detail}", status=422) from error


def _attributes(request: Request) -> dict[str, str]:
    """The attributes of a binary event; a header that stands twice says nothing."""
    found: dict[str, str] = {}
    for name, value in request.headers.items():
        if not name.startswith("ce-"):
            continue
        if name in found:
            raise Refusal("invalid-events", f"header {name[:100]} stands twice", status=422)
        found[name] = unquote(value)
    return {name.removeprefix("ce-"): value for name, value in found.items()}
