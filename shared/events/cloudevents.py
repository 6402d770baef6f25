"""CloudEvents 1.0 on Kafka, in both content modes, and the field types that all events share."""

import base64
import itertools
import json
import re
from typing import Annotated, Any, Final

import orjson
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationInfo, WithJsonSchema

from shared.clock import format_instant, parse_instant
from shared.errors import RecordError
from shared.events.reading import READING
from shared.kafka import Record

EVENT_BYTES_MAX = 256 * 1024
# What a clock can say is between these years; anything else is a mistake in the unit or in the parsing.
EARLIEST_US: Final = parse_instant("2000-01-01T00:00:00Z")
LATEST_US: Final = parse_instant("2200-01-01T00:00:00Z")

_STRUCTURED = "application/cloudevents"
_JSON_TYPE = re.compile(r"(?:application|text)/json|[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.-]+\+json", re.ASCII)
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii"})


def read_instant(text: str) -> int:
    """Read an instant of an event. Raises ValueError for one outside 2000 to 2200."""
    instant_us = parse_instant(text)
    if not EARLIEST_US <= instant_us < LATEST_US:
        raise ValueError(f"{text[:64]!r} is not between the years 2000 and 2200")
    return instant_us


def _from_text(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError("an instant is RFC 3339 text, such as 2026-11-01T08:00:05Z, not a number")  # noqa: TRY004 - pydantic takes only ValueError
    return read_instant(value)


def _from_text_or_code(value: object, info: ValidationInfo) -> object:
    """A number is an instant only where our own code makes the model: on the wire nobody knows its unit."""
    if isinstance(value, str) or info.context is READING or info.mode == "json":
        return _from_text(value)
    return value


def _refuse_control_characters(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must not hold control characters")
    return text


def _content_type(text: str) -> str:
    """A JSON media type with any parameters, in UTF-8 (RFC 6838, RFC 8259)."""
    media_type, *parameters = (part.strip().lower() for part in text.split(";"))
    if _JSON_TYPE.fullmatch(media_type) is None:
        raise ValueError(f"{text[:100]!r} is no JSON media type, such as application/json")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in _CHARSETS:
            raise ValueError(f"{text[:100]!r}: the charset of JSON is UTF-8")
    return text


_INSTANT_ON_THE_WIRE = (
    Field(strict=True),
    PlainSerializer(format_instant, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
)
# An instant on the wire is RFC 3339; in Python it is microseconds since the epoch.
Instant = Annotated[int, BeforeValidator(_from_text), *_INSTANT_ON_THE_WIRE]
# The same in a model that our own code makes, from microseconds.
SentInstant = Annotated[int, BeforeValidator(_from_text_or_code), *_INSTANT_ON_THE_WIRE]
JsonContentType = Annotated[str, AfterValidator(_content_type)]
Identifier = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_refuse_control_characters)]
RegionName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
TenantId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Sku = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Micros = Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)]


def load_envelope(record: Record) -> dict[str, Any]:
    """The CloudEvent of a record as one object, whether it came structured or binary.

    Binary mode: attributes in `ce_` headers, the value is `data`. The content type decides before the headers do.
    Raises RecordError. Source: CloudEvents 1.0, Kafka protocol binding, section 3.
    """
    if record.value is None:
        raise RecordError("empty record", "the record has no value; publish a CloudEvent")
    if len(record.value) > EVENT_BYTES_MAX:
        raise RecordError("too large", f"{len(record.value)} bytes; an event may have {EVENT_BYTES_MAX}")
    headers = _read_headers(record.headers)
    content_type = headers.get("content-type", "")
    if content_type.lower().startswith(_STRUCTURED + "-batch"):
        raise RecordError("batch", "a record must hold one CloudEvent, not a batch")
    if "ce_specversion" in headers and not content_type.lower().startswith(_STRUCTURED):
        return _binary_event(headers, content_type, load_json(record.value))
    return load_event(record.value)


def load_event(value: bytes) -> dict[str, Any]:
    """A structured CloudEvent, with its data as JSON. Raises RecordError."""
    body = load_json(value)
    if not isinstance(body, dict):
        raise RecordError("not an object", "the value must be one CloudEvent as a JSON object")
    encoded = body.get("data_base64")
    if isinstance(encoded, str) and "data" not in body:
        try:
            data = base64.b64decode(encoded, validate=True)
        except ValueError as error:
            raise RecordError("invalid event", f"data_base64: {error}") from error
        return {**body, "data": load_json(data)}
    return body


def load_json(value: bytes) -> Any:  # noqa: ANN401 - whatever it says
    """A JSON document without what two readers could read in two ways. Raises RecordError."""
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        hint = "; a schema registry's framing?" if value[:1] == b"\0" else ""
        raise RecordError("not JSON", f"{error}{hint}") from error
    # orjson, like most readers, takes the last of equal keys: which one was meant nobody can tell.
    try:
        _KEYS.decode(value.decode())
    except RecursionError as error:
        raise RecordError("not JSON", "nested too deeply") from error
    if b"\\u0000" in value and _holds_null(document):
        raise RecordError("null character", "U+0000 is no character of a text")
    return document


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        keys = sorted(key for key, _ in pairs)
        twice = next(key for key, following in itertools.pairwise(keys) if key == following)
        raise RecordError("duplicate key", f"{twice[:100]!r} stands twice in one object")


_KEYS = json.JSONDecoder(object_pairs_hook=_distinct, parse_int=len, parse_float=len)


def _holds_null(document: object) -> bool:
    waiting = [document]
    while waiting:
        found = waiting.pop()
        if isinstance(found, str) and "\0" in found:
            return True
        if isinstance(found, dict):
            waiting += [*found, *found.values()]
        elif isinstance(found, list):
            waiting += found
    return False


def _read_headers(headers: tuple[tuple[str, bytes | None], ...]) -> dict[str, str]:
    """The headers that say what the event is. Raises RecordError where one says so twice, or not in UTF-8."""
    found: dict[str, str] = {}
    for raw_name, value in headers:
        name = raw_name.lower()
        if value is None or not (name.startswith("ce_") or name == "content-type"):
            continue
        if name in found:
            raise RecordError("duplicate header", f"header {name[:100]!r} stands twice")
        try:
            found[name] = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RecordError("bad header", f"header {name[:100]!r} is not UTF-8") from error
        if "\0" in found[name]:
            raise RecordError("null character", f"header {name[:100]!r} holds U+0000")
    return found


def _binary_event(headers: dict[str, str], content_type: str, data: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    attributes: dict[str, Any] = {name[3:]: value for name, value in headers.items() if name.startswith("ce_")}
    if content_type:
        attributes["datacontenttype"] = content_type
    return {**attributes, "data": data}
