"""Lines of an event file: what is kept out and why, whatever the pieces in which the file is read."""

import io
import json
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from deploy.cli import lines
from deploy.cli.lines import BadLine, EventFile, Line, check_line
from shared.events.cloudevents import EVENT_BYTES_MAX
from shared.events.incoming import IncomingEvent
from shared.topics import LIFECYCLE, USAGE


def created(**changes: Any) -> dict[str, Any]:
    data = {"region": "vn", "tenant_id": "acme", "gpu_sku": "h100-sxm", "gpu_count": 2, **changes.pop("data", {})}
    return {
        "specversion": "1.0",
        "id": "evt-1",
        "source": "platform/vn",
        "type": "container.created",
        "subject": "ctr-1",
        "time": "2026-11-01T08:00:05Z",
        "data": data,
        **changes,
    }


def usage() -> dict[str, Any]:
    interval = {"from": "2026-11-01T08:00:00Z", "to": "2026-11-01T08:01:00Z"}
    return {
        "specversion": "1.0",
        "id": "use-1",
        "source": "inference",
        "type": "service.usage",
        "time": "2026-11-01T08:01:00Z",
        "data": {"region": "vn", "tenant_id": "acme", "sku": "tokens", "quantity": 7, **interval},
    }


def check(data: bytes) -> IncomingEvent | BadLine:
    return check_line(Line(7, data, len(data)))


def reason(data: bytes) -> str:
    found = check(data)
    assert isinstance(found, BadLine)
    assert found.number == 7
    assert found.detail
    return found.reason


def test_types_tell_lifecycle_and_usage_apart_and_bytes_stay_as_they_are() -> None:
    line = orjson.dumps(created())
    assert check(line) == IncomingEvent(LIFECYCLE, b"vn/acme", line, "vn")
    line = json.dumps(usage(), indent=None).encode()
    assert check(line) == IncomingEvent(USAGE, b"vn/acme", line, "vn")


def test_a_listing_is_keyed_by_its_source() -> None:
    data = {"region": "vn", "snapshot": "s1", "page": 1, "pages": 1, "resources": []}
    listing = created(type="inventory.observed") | {"data": data}
    found = check(orjson.dumps(listing))
    assert isinstance(found, IncomingEvent)
    assert found.key == b"vn/platform/vn"


def test_every_kind_of_bad_line_has_its_reason() -> None:
    assert reason(b"{") == "not JSON"
    assert reason(b'{"a": "\xff"}') == "not JSON"
    assert reason(b'{"a": "\x00"}') == "not JSON"
    assert reason(b"[]") == "not an object"
    assert reason(b"null") == "not an object"
    assert reason(b"{}") == "unknown type"
    assert reason(orjson.dumps(created(type="container.exploded"))) == "unknown type"
    assert reason(orjson.dumps(created(type=["container.created"]))) == "unknown type"
    assert reason(orjson.dumps(created(type=None))) == "unknown type"
    assert reason(orjson.dumps(created(subject=""))) == "invalid event"
    assert reason(orjson.dumps(created(id="\x00"))) == "null character"
    assert reason(orjson.dumps(created(id="\x01"))) == "invalid event"
    assert reason(orjson.dumps(created(time="yesterday"))) == "invalid event"
    assert reason(orjson.dumps(created(data={"gpu_count": "2"}))) == "invalid event"
    assert reason(orjson.dumps(created(data={"gpu_count": -1}))) == "invalid event"
    assert reason(orjson.dumps(created(data={"persistent_storage_gb": 1.5}))) == "invalid event"
    broken = created()
    del broken["data"]["tenant_id"]
    assert reason(orjson.dumps(broken)) == "invalid event"
    assert reason(orjson.dumps(usage() | {"data": {}})) == "invalid event"
    assert reason(orjson.dumps(created(id="x" * EVENT_BYTES_MAX))) == "too large"


def read_all(data: bytes, monkey_piece: int) -> list[Line]:
    before = lines.PIECE_BYTES
    lines.PIECE_BYTES = monkey_piece
    try:
        stream = io.BytesIO(data)
        return [line for piece in EventFile(stream, stream, len(data), live=False).pieces() for line in piece]
    finally:
        lines.PIECE_BYTES = before


@given(
    parts=st.lists(st.binary(max_size=12).filter(lambda part: b"\n" not in part), max_size=12),
    ending=st.sampled_from([b"", b"\n"]),
    piece=st.integers(1, 30),
)
def test_pieces_never_change_the_lines(parts: list[bytes], ending: bytes, piece: int) -> None:
    data = b"\n".join(parts) + ending
    expected = [
        (number, part.strip(b" \t\r")) for number, part in enumerate(data.split(b"\n"), 1) if part.strip(b" \t\r")
    ]
    assert [(line.number, line.data) for line in read_all(data, piece)] == expected


def test_a_line_longer_than_memory_should_hold_is_counted_and_passed_over() -> None:
    huge = b"x" * (10 * 1024 * 1024)
    found = read_all(b"a\n" + huge + b"\nb\n" + huge, 1024 * 1024)
    assert [(line.number, line.data, line.length) for line in found] == [
        (1, b"a", 1),
        (2, None, len(huge)),
        (3, b"b", 1),
        (4, None, len(huge)),
    ]
    assert isinstance(check_line(found[1]), BadLine)
