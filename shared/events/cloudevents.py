"""CloudEvents 1.0 on Kafka, in both content modes, and the field types that all events share."""

from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from shared.clock import format_instant, parse_instant
from shared.errors import RecordError
from shared.kafka import Record

EVENT_BYTES_MAX = 256 * 1024


def _read_instant(value: object) -> object:
    return parse_instant(value) if isinstance(value, str) else value


def _refuse_control_characters(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must not hold control characters")
    return text


# An instant on the wire is RFC 3339; in Python it is microseconds since the epoch.
Instant = Annotated[
    int,
    BeforeValidator(_read_instant),
    Field(strict=True),
    PlainSerializer(format_instant, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Identifier = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_refuse_control_characters)]
RegionName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
TenantId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Sku = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Micros = Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)]


def load_envelope(record: Record) -> dict[str, Any]:
    """The CloudEvent of a record as one object, whether it came structured or binary.

    Binary mode: attributes in `ce_` headers, the value is `data`. Raises RecordError.
    Source: CloudEvents 1.0, Kafka protocol binding, sections 3.2 and 3.3.
    """
    if record.value is None:
        raise RecordError("empty record", "the record has no value; publish a CloudEvent")
    if len(record.value) > EVENT_BYTES_MAX:
        raise RecordError("too large", f"{len(record.value)} bytes; an event may have {EVENT_BYTES_MAX}")
    try:
        body = orjson.loads(record.value)
    except orjson.JSONDecodeError as error:
        raise RecordError("not JSON", str(error)) from error
    headers = {name.lower(): value for name, value in record.headers}
    if "ce_specversion" in headers:
        return {**_binary_attributes(headers), "data": body}
    if not isinstance(body, dict):
        raise RecordError("not an object", "the value must be one CloudEvent as a JSON object")
    return body


def _binary_attributes(headers: dict[str, bytes | None]) -> dict[str, str]:
    attributes = {}
    for name, value in headers.items():
        if name.startswith("ce_") and value is not None:
            try:
                attributes[name[3:]] = value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise RecordError("bad header", f"header {name!r} is not UTF-8") from error
    return attributes
