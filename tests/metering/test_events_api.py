"""Events over HTTP: all of a request or nothing, told why, and on their topic as a platform would publish them."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
import pytest
from aiokafka.errors import KafkaTimeoutError

from services.metering.api_events import EVENTS_MAX, EventsApi
from shared.clock import format_instant
from shared.http import create_api
from tests.metering.meter import START_US

ONE = {"content-type": "application/cloudevents+json; charset=utf-8"}
MANY = {"content-type": "application/cloudevents-batch+json"}


@dataclass
class Broker:
    down: bool = False
    records: list[tuple[str, bytes, dict[str, Any]]] = field(default_factory=list)

    async def send_and_wait(self, topic: str, value: bytes, key: bytes, headers: Sequence[tuple[str, bytes]]) -> object:
        assert headers == [("content-type", b"application/cloudevents+json")]
        if self.down:
            raise KafkaTimeoutError
        self.records.append((topic, key, orjson.loads(value)))
        return None


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
async def http(broker: Broker) -> AsyncIterator[httpx.AsyncClient]:
    api = create_api("test", readiness=dict)
    api.include_router(EventsApi(broker, "t.", {"vn": None, "jp": None}).router)
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://metering/v1") as client:
        yield client


def created(number: int = 1, **data: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"e{number}",
        "source": "platform/vn",
        "type": "container.created",
        "subject": f"c{number}",
        "time": format_instant(START_US),
        "data": {"region": "vn", "tenant_id": "acme", "gpu_count": 0, **data},
    }


def used() -> dict[str, Any]:
    data = {"region": "jp", "tenant_id": "acme", "service": "inference", "sku": "tokens", "quantity": 5}
    return created() | {"type": "usage.recorded", "data": data}


async def test_an_event_is_published_as_it_came_under_its_owner(http: httpx.AsyncClient, broker: Broker) -> None:
    answer = await http.post("/events", json=created(), headers=ONE)
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1})
    assert broker.records == [("t.container.lifecycle.v1", b"vn/acme", created())]


async def test_a_binary_event_is_the_same_event(http: httpx.AsyncClient, broker: Broker) -> None:
    event = created()
    data = event.pop("data")
    headers = {f"ce-{name}": value for name, value in event.items()} | {"ce-subject": "c%31"}
    assert (await http.post("/events", json=data, headers=headers)).status_code == 202
    assert broker.records == [("t.container.lifecycle.v1", b"vn/acme", created())]


async def test_a_batch_is_published_whole_or_not_at_all(http: httpx.AsyncClient, broker: Broker) -> None:
    bad = [created(2, gpu_count=-1), created(3) | {"type": "container.exploded"}, created(4, region="us"), 7]
    answer = await http.post("/events", json=[created(), *bad], headers=MANY)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    errors = answer.json()["errors"]
    assert [(item["index"], item["reason"]) for item in errors] == [
        (1, "invalid event"),
        (2, "unknown type"),
        (3, "unknown region"),
        (4, "not an object"),
    ]
    assert broker.records == []
    answer = await http.post("/events", json=[created(number) for number in range(EVENTS_MAX)], headers=MANY)
    assert answer.json() == {"accepted": EVENTS_MAX}
    assert len(broker.records) == EVENTS_MAX


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", ONE, 422),
        (b"[]", MANY, 422),
        (b"{}", MANY, 422),
        (b"{", ONE, 422),
        (b'{"id":1,"id":2}', ONE, 422),
        (b'{"id":"\\u0000"}', ONE, 422),
        (b"\xff", ONE, 422),
        (b"[" * 5000, MANY, 422),
        (b"{}", {"content-type": "application/json"}, 415),
        (b"{}", {"ce-specversion": "1.0"}, 422),
        (b"{}", {"ce-specversion": "1.0", "ce-id": "%00"}, 422),
        (orjson.dumps([created()] * (EVENTS_MAX + 1)), MANY, 422),
        (b" " * 3_000_000, ONE, 413),
    ],
)
async def test_what_makes_no_sense_is_refused(
    http: httpx.AsyncClient, broker: Broker, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = await http.post("/events", content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert broker.records == []


async def test_a_broker_that_is_away_is_told(http: httpx.AsyncClient, broker: Broker) -> None:
    broker.down = True
    answer = await http.post("/events", json=created(), headers=ONE)
    assert answer.status_code == 503
    assert "send the same again" in answer.json()["detail"]
