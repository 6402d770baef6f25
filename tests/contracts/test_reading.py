"""What is refused on the way in because two readers could read it in two ways, and what is taken for what it is."""

import base64
import contextlib
import json
import uuid
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from shared.errors import RecordError
from shared.events.cloudevents import Instant, SentInstant, load_envelope, load_json
from shared.events.lifecycle import read_lifecycle
from shared.events.reading import read_as
from shared.events.usage import read_usage
from shared.kafka import Record
from shared.topics import LIFECYCLE

EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "evt-1",
    "source": "platform/vn",
    "type": "container.started",
    "subject": "ctr-1",
    "time": "2026-11-01T08:00:05Z",
    "data": {"region": "vn", "tenant_id": "acme"},
}
BINARY = [
    *((f"ce_{name}", value.encode()) for name, value in EVENT.items() if name != "data"),
    ("content-type", b"application/json"),
]


def envelope(value: bytes, *headers: tuple[str, bytes | None]) -> dict[str, Any]:
    return load_envelope(Record(LIFECYCLE, uuid.UUID(int=1), 0, 0, None, value, headers))


def refusal(value: bytes, *headers: tuple[str, bytes | None]) -> str:
    with pytest.raises(RecordError) as caught:
        read_lifecycle(envelope(value, *headers))
    return f"{caught.value.reason}: {caught.value.detail}"


class Moment(BaseModel):
    at: Instant


class SentMoment(BaseModel):
    at: SentInstant


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": 1, "a": 1}',
        b'{"a": 1, "b": {"c": [1, {"d": 1, "e": 2, "d": 3}]}}',
        b'{"a" : 1, "a": 2, "x": "a\\":"}',
        b'{"a": 1, "\\u0061": 2}',
        b'{"time": "08:00", "time": "09:00"}',
    ],
)
def test_a_key_that_stands_twice_is_refused(text: bytes) -> None:
    with pytest.raises(RecordError, match="duplicate key"):
        load_json(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


@given(json_values, st.booleans())
def test_every_other_document_is_read_as_it_is(document: object, ascii_only: bool) -> None:  # noqa: FBT001
    text = json.dumps(document, ensure_ascii=ascii_only).encode()
    if "\0" in str(document) or b"\\u0000" in text:
        return
    assert load_json(text) == document == orjson.loads(text)


@pytest.mark.parametrize("value", ["a\0b", ["\0"], {"\0": 1}, {"a": [{"b": "\0"}]}])
def test_a_null_character_is_refused_wherever_it_is(value: object) -> None:
    with pytest.raises(RecordError, match="null character"):
        load_json(orjson.dumps(value))
    assert load_json(rb'"written as \\u0000"') == "written as \\u0000"


ENDLESS = (b"[" * 100_000, b'{"a":' * 900 + b"1" + b"}" * 900, b"9" * 5000, b"1e999", b"NaN", b"\0\0\0\0\1{}")


@pytest.mark.parametrize("text", ENDLESS)
def test_what_has_no_end_of_depth_or_digits_is_read_or_refused(text: bytes) -> None:
    with contextlib.suppress(RecordError):
        load_json(text)


@pytest.mark.parametrize("at", [1_700_000_000, 1_700_000_000.5, "1700000000", True, None, "1999-12-31T23:59:59Z"])
def test_an_instant_is_a_text_between_2000_and_2200(at: object) -> None:
    document = {"at": at}
    with pytest.raises(ValueError, match="at"):
        Moment.model_validate(document)
    for model in (Moment, SentMoment):
        with pytest.raises(ValueError, match="at"):
            model.model_validate_json(orjson.dumps(document))
    with pytest.raises(RecordError):
        read_as(SentMoment, document)


def test_our_own_code_makes_events_from_microseconds() -> None:
    assert SentMoment(at=5).at == 5
    assert Moment.model_validate({"at": "2199-12-31T23:59:59Z"}).at == 7_258_118_399_000_000
    with pytest.raises(ValueError, match="2000 and 2200"):
        Moment.model_validate({"at": "2200-01-01T00:00:00Z"})


def test_a_header_that_stands_twice_is_refused() -> None:
    assert envelope(b"{}", *BINARY)["id"] == "evt-1"
    for again in ("ce_id", "CE_ID", "content-type"):
        assert refusal(b"{}", *BINARY, (again, b"evt-2")).startswith("duplicate header")
    assert refusal(b"{}", *BINARY, ("ce_x", b"\0")).startswith("null character")
    assert envelope(b"{}", *BINARY, ("x", b"\xff"), ("X", b"2"))["type"] == "container.started"


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "text/json", "application/vnd.acme+json;v=1"]
)
def test_a_content_type_may_have_parameters_in_either_mode(content_type: str) -> None:
    structured = orjson.dumps({**EVENT, "datacontenttype": content_type})
    binary = [header for header in BINARY if header[0] != "content-type"]
    for found in (
        envelope(structured),
        envelope(orjson.dumps(EVENT["data"]), *binary, ("Content-Type", content_type.encode())),
    ):
        event = read_lifecycle(found)
        assert event is not None
        assert event.id == "evt-1"


@pytest.mark.parametrize("content_type", ["application/avro", "application/json; charset=iso-8859-1", "json"])
def test_data_that_is_no_json_is_refused_in_either_mode(content_type: str) -> None:
    binary = [header for header in BINARY if header[0] != "content-type"]
    assert "datacontenttype" in refusal(orjson.dumps({**EVENT, "datacontenttype": content_type}))
    assert "datacontenttype" in refusal(orjson.dumps(EVENT["data"]), *binary, ("content-type", content_type.encode()))


def test_the_content_type_says_where_the_attributes_are() -> None:
    structured = ("content-type", b"application/cloudevents+json; charset=UTF-8")
    leftover = ("ce_specversion", b"1.0"), ("ce_id", b"a relay's")
    assert envelope(orjson.dumps(EVENT), structured, *leftover)["id"] == "evt-1"
    assert "batch" in refusal(b"[]", ("content-type", b"application/cloudevents-batch+json"))


def test_data_may_come_as_base64() -> None:
    encoded = {name: value for name, value in EVENT.items() if name != "data"}
    encoded["data_base64"] = base64.b64encode(orjson.dumps(EVENT["data"])).decode()
    event = read_lifecycle(envelope(orjson.dumps(encoded)))
    assert event is not None
    assert event.data.region == "vn"
    assert "data_base64" in refusal(orjson.dumps({**encoded, "data_base64": "?"}))


def test_all_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(RecordError) as caught:
        read_usage({"type": "service.usage", "data": {"subject": "x", "quantity": "7"}})
    assert caught.value.detail == (
        "missing: specversion, id, source, time, data.region, data.tenant_id, data.sku, data.from, data.to; "
        "data.quantity: Input should be a valid integer"
    )
    with pytest.raises(RecordError, match="missing: type"):
        read_usage({})
