"""What operators see and decide over HTTP: dead letters and items set aside."""

from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import httpx
import orjson
import pytest
from httpx import ASGITransport

from shared.clock import FixedClock
from shared.consumer import OffsetConsumer
from shared.db import Pool, ensure_partitions, open_pool, transaction
from shared.dead_letters import DeadRecord, insert_dead_letters
from shared.http import create_api, dead_letter_routes, set_aside_routes
from shared.kafka import Record
from shared.set_aside import load_held_back, set_aside
from shared.topics import CHARGES, LIFECYCLE
from tests.conftest import MakeDatabase

NOW_US = 1_767_225_600_000_000
WORD = {"actor": "ops", "reason": "garbage of a load test"}
EVENT = {"source": "platform/vn", "id": "e1", "subject": "ctr-1", "data": {"tenant_id": "acme"}}


@pytest.fixture
async def pool(make_database: MakeDatabase) -> AsyncIterator[Pool]:
    _, url = await make_database("balance")
    opened = await open_pool(url, application="routes-test", size_max=3)
    yield opened
    await opened.close()


@pytest.fixture
async def client(pool: Pool) -> AsyncIterator[httpx.AsyncClient]:
    async def apply(*_: object) -> None:
        raise AssertionError

    clock = FixedClock(NOW_US)
    options = {"bootstrap": "", "topic_prefix": "", "topics": (CHARGES, LIFECYCLE), "group": ""}
    consumer = OffsetConsumer(pool, clock, apply, **options)  # type: ignore[arg-type]
    api = create_api("test", readiness=dict)
    api.include_router(dead_letter_routes(pool, consumer))
    api.include_router(set_aside_routes(pool, clock))
    async with httpx.AsyncClient(transport=ASGITransport(api), base_url="http://test") as opened:
        yield opened


async def bury(pool: Pool, *records: Record, reason: str = "not JSON") -> list[str]:
    async with transaction(pool) as connection:
        await ensure_partitions(connection, "outbox", NOW_US)
        await insert_dead_letters(connection, [DeadRecord(item, reason, "here") for item in records], NOW_US)
    return [item.dead_id for item in records]


def record(offset: int, value: bytes | None, topic: str = CHARGES, **headers: bytes) -> Record:
    return Record(topic, UUID(int=1), 0, offset, b"key", value, tuple(headers.items()))


async def test_dead_letters_are_paged_and_filtered_and_named(pool: Pool, client: httpx.AsyncClient) -> None:
    garbage = await bury(pool, *(record(number, b"{") for number in range(5)))
    binary = record(9, b'{"tenant_id": "else"}', LIFECYCLE, ce_id=b"e2", ce_source=b"platform/eu")
    named = await bury(pool, record(8, orjson.dumps(EVENT), LIFECYCLE), binary, reason="other_tenant")
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = (await client.get("/v1/dead-letters", params={"limit": 2, **after})).json()
        found += [item["dead_id"] for item in page["dead_letters"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert sorted(found) == sorted(garbage + named)
    # A cursor of nowhere is no end of the list.
    assert (await client.get("/v1/dead-letters", params={"after": "zzz"})).status_code == 422
    for parameters in ({"topic": LIFECYCLE}, {"reason": "OTHER"}):
        listed = (await client.get("/v1/dead-letters", params=parameters)).json()["dead_letters"]
        assert [item["dead_id"] for item in listed] == named
    told = [(item["source"], item["id"], item["subject"], item["tenant_id"]) for item in listed]
    assert told == [("platform/vn", "e1", "ctr-1", "acme"), ("platform/eu", "e2", None, "else")]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(b"caf\xc3\xa9 {", {"text": "café {"}), (b"\xff\x00", {"base64": "/wA="}), (None, None)],
)
async def test_a_dead_letter_is_shown_with_its_bytes(
    pool: Pool, client: httpx.AsyncClient, value: bytes | None, shown: dict[str, str] | None
) -> None:
    [dead_id] = await bury(pool, record(1, value, note=b"\xff"))
    letter = (await client.get(f"/v1/dead-letters/{dead_id}")).json()
    assert letter["value"] == shown
    assert letter["key"] == {"text": "key"}
    assert letter["headers"] == [["note", {"base64": "/w=="}]]
    assert letter["ended_at"] is None


async def test_a_closed_dead_letter_has_ended_and_keeps_its_bytes(pool: Pool, client: httpx.AsyncClient) -> None:
    item = record(1, b"{")
    [dead_id] = await bury(pool, item)
    assert (await client.post(f"/v1/dead-letters/{dead_id}/close", json={"actor": "ops"})).status_code == 422
    assert (await client.post(f"/v1/dead-letters/{dead_id}/close", json=WORD)).is_success
    assert (await client.get("/v1/dead-letters")).json()["dead_letters"] == []
    assert await pool.fetchval("select count(*) from dead_letter where replayed_at is null") == 0
    letter = (await client.get(f"/v1/dead-letters/{dead_id}")).json()
    assert (letter["closed_by"], letter["close_reason"]) == (WORD["actor"], WORD["reason"])
    assert letter["value"] == {"text": "{"}
    for path in ("close", "replay"):
        answer = await client.post(f"/v1/dead-letters/{dead_id}/{path}", json=WORD if path == "close" else {})
        assert answer.status_code == 404
    # The same record dead again is open again.
    await bury(pool, item)
    assert [item["dead_id"] for item in (await client.get("/v1/dead-letters")).json()["dead_letters"]] == [dead_id]


async def test_an_item_set_aside_is_listed_and_tried_at_once(pool: Pool, client: httpx.AsyncClient) -> None:
    items = [("refund", "order/1"), ("refund", "order/2"), ("tick", "7")]
    async with transaction(pool) as connection:
        for kind, item in items:
            await set_aside(connection, kind, item, "it can't be computed", NOW_US)
    first = (await client.get("/v1/set-aside", params={"limit": 2})).json()
    rest = (await client.get("/v1/set-aside", params={"limit": 2, "after": first["next"]})).json()
    assert [(item["kind"], item["item"]) for item in first["set_aside"] + rest["set_aside"]] == items
    assert rest["next"] is None
    assert len((await client.get("/v1/set-aside", params={"kind": "tick"})).json()["set_aside"]) == 1
    assert (await client.post("/v1/set-aside/refund/order%2F1/retry", json=WORD)).is_success
    async with transaction(pool) as connection:
        assert await load_held_back(connection, "refund", ["order/1", "order/2"], NOW_US) == {"order/2"}
    assert (await client.post("/v1/set-aside/refund/none/retry", json=WORD)).status_code == 404


async def test_errors_of_a_session_answer_503_and_those_of_data_500() -> None:
    errors: dict[str, Exception] = {
        "cut": asyncpg.InternalClientError("cannot switch to state 15"),
        "closed": asyncpg.InterfaceError("connection is closed"),
        "idle": asyncpg.IdleInTransactionSessionTimeoutError("terminating connection"),
        "data": asyncpg.NumericValueOutOfRangeError("out of range"),
        "ours": KeyError("x"),
    }
    api = create_api("test", readiness=dict)

    @api.get("/{name}")
    async def fail(name: str) -> None:
        raise errors[name]

    transport = ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answers = {name: (await client.get(f"/{name}")).status_code for name in errors}
    assert answers == {"cut": 503, "closed": 503, "idle": 503, "data": 500, "ours": 500}
