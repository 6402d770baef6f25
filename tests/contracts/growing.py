"""What a newer publisher might send: more fields at every depth, extensions, and types that nobody knows yet."""

import uuid
from collections.abc import Mapping
from typing import Any

import orjson

from shared.kafka import Record

TOPIC_ID = uuid.UUID(int=9)
# Their keys are data: a field more would be one label, price or SKU more.
MAPS = frozenset({"labels", "gpu", "storage", "services"})


def grow(document: Any) -> Any:
    """The same document with an unknown field in each of its objects."""
    if isinstance(document, list):
        return [grow(item) for item in document]
    if not isinstance(document, Mapping):
        return document
    fields = {name: value if name in MAPS else grow(value) for name, value in document.items()}
    return {**fields, "a_later_field": {"of": ["a", "later", 1]}}


def grow_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """A CloudEvent as a newer publisher and a relay on the way might send it."""
    return {
        **grow(event),
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "partitionkey": "a",
        "datacontenttype": "application/json; charset=utf-8",
        "dataschema": "https://example.com/later.json",
    }


def of_a_later_type(event: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {**event, "id": f"{event['id']}-later", "type": kind, "data": {"what": "nobody knows"}}


def record(topic: str, event: Mapping[str, Any], offset: int = 0) -> Record:
    return Record(topic, TOPIC_ID, 0, offset, b"vn/acme", orjson.dumps(event))
