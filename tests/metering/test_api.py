"""Metering's routes over its database: resources with what was replaced, contradictions, waiting events, status."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import structlog

from services.metering.api import MeteringApi
from services.metering.app.gauges import refresh_gauges
from services.metering.app.guard import ClockGuard
from services.metering.app.read_until import ReadUntil
from services.metering.metrics import CONTRADICTIONS, HALTED, LAG_SECONDS, UNPRICED, UNPRICED_RESOURCES, WAITING
from services.metering.store.shards import insert_halt
from shared.clock import HOUR_US, MINUTE_US, format_instant
from shared.db import transaction
from shared.http import create_api
from shared.topics import LIFECYCLE
from shared.watermarks import Watermarks
from tests.metering.meter import START_US, Meter, book, lifecycle, usage
from tests.support.hostile_requests import find_faults


class _Relay:
    def wake(self) -> None:
        """Nothing is published here."""


@pytest.fixture
async def client(meter: Meter) -> AsyncIterator[httpx.AsyncClient]:
    relay: Any = _Relay()
    guard = ClockGuard(meter.pool, meter.clock, meter.settings)
    reading = ReadUntil(
        meter.pool, meter.clock, guard, Watermarks("127.0.0.1:1", ""), topics=(LIFECYCLE,), settle_delay_seconds=0
    )
    routes = MeteringApi(
        *(meter.pool, meter.clock, meter.prices, meter.settings.regions),
        ticker=meter.ticker,
        intake=meter.intake,
        inventory=meter.inventory,
        guard=guard,
        relay=relay,
        reading=reading,
    )
    api = create_api("metering", readiness=dict)
    api.include_router(routes.router)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(api, raise_app_exceptions=False), base_url="http://metering"
    ) as made:
        yield made


async def test_a_resource_tells_what_was_replaced_and_what_has_no_effect(
    meter: Meter, client: httpx.AsyncClient
) -> None:
    await meter.reach(START_US + HOUR_US)
    await meter.put_book(book(START_US, gpu={"a30": "0.6"}))
    wrong = lifecycle("container.stopped", "c", START_US + 5 * MINUTE_US)
    right = lifecycle("container.stopped", "c", START_US + 9 * MINUTE_US, reason="a wrong clock")
    right["data"]["replaces"] = {"source": wrong["source"], "id": wrong["id"]}
    stray = lifecycle("container.stopped", "c", START_US + 10 * MINUTE_US)
    created = lifecycle("container.created", "c", START_US, gpu_sku="a30", gpu_count=1)
    await meter.take(created, lifecycle("container.started", "c", START_US), wrong, right, stray)
    found = (await client.get("/v1/resources/vn/c")).json()
    [replaced] = found["replaced"]
    assert (replaced["event_id"], replaced["replaced_by"]["event_id"]) == (wrong["id"], right["id"])
    assert replaced["replaced_because"] == "a wrong clock"
    [without] = found["without_effect"]
    assert (without["event_id"], without["effect"]) == (stray["id"], "ends_no_run")
    assert sum(part["amount_micros"] for part in found["segments"]) == 90_000


async def test_contradictions_are_paged_filtered_counted_and_closed(meter: Meter, client: httpx.AsyncClient) -> None:
    for name in ("a", "b", "c"):
        await meter.take(
            lifecycle("container.created", name, START_US, gpu_count=0), lifecycle("container.stopped", name, START_US)
        )
    foreign = {**lifecycle("container.stopped", "a", START_US, tenant_id="rival"), "id": "foreign"}
    await meter.take(foreign)
    found, after = [], None
    while True:
        parameters = {"limit": "1", **({} if after is None else {"after": after})}
        page = (await client.get("/v1/contradictions", params=parameters)).json()
        found += [(item["resource_id"], item["kind"]) for item in page["contradictions"]]
        after = page["next"]
        if after is None:
            break
    assert found == [("a", "ends_no_run"), ("a", "other_tenant"), ("b", "ends_no_run"), ("c", "ends_no_run")]
    only = (await client.get("/v1/contradictions", params={"kind": "other_tenant"})).json()["contradictions"]
    assert [item["event_id"] for item in only] == ["foreign"]
    assert (await client.get("/v1/contradictions", params={"after": "x"})).status_code == 422
    assert (await client.get("/v1/status")).json()["contradictions"] == {"ends_no_run": 3, "other_tenant": 1}
    await refresh_gauges(meter.pool, meter.clock.now_us())
    assert CONTRADICTIONS.labels("ends_no_run")._value.get() == 3
    key = {name: only[0][name] for name in ("region", "resource_id", "kind", "source", "event_id")}
    word = {"actor": "ann", "reason": "a typing error"}
    assert (await client.post("/v1/contradictions/close", json={**key, **word})).status_code == 200
    assert (await client.post("/v1/contradictions/close", json={**key, **word})).status_code == 404
    by_itself = {**key, "kind": "ends_no_run", "event_id": f"a-container.stopped-{START_US}"}
    assert (await client.post("/v1/contradictions/close", json={**by_itself, **word})).status_code == 404


async def test_parked_events_are_listed_and_released_by_topic(meter: Meter, client: httpx.AsyncClient) -> None:
    await meter.put_book(book(START_US - HOUR_US, services={"tokens": {"unit": "1000-tokens", "price": "0.4"}}))
    await meter.take(usage("u-1", START_US + 6 * MINUTE_US, 1_000), usage("u-2", START_US + 6 * MINUTE_US, 1_000))
    page = (await client.get("/v1/parked", params={"limit": "1"})).json()
    assert [item["event_id"] for item in page["parked"]] == ["u-1"]
    rest = (await client.get("/v1/parked", params={"after": page["next"], "reason": "future"})).json()
    assert [item["event_id"] for item in rest["parked"]] == ["u-2"]
    await refresh_gauges(meter.pool, meter.clock.now_us())
    assert WAITING.labels("parked")._value.get() == 2
    meter.clock.set(START_US + 2 * MINUTE_US)
    request = {"source": "inference/vn", "event_id": "u-1", "actor": "ann", "reason": "its clock is right"}
    assert (await client.post("/v1/parked/release", json=request)).json() == {"outcome": "applied"}
    assert (await client.post("/v1/parked/release", json=request)).status_code == 404


async def test_lag_grows_and_is_told_while_ticks_are_halted(meter: Meter, client: httpx.AsyncClient) -> None:
    await meter.reach(START_US + MINUTE_US)
    async with transaction(meter.pool) as connection:
        await insert_halt(connection, "the clock jumped", meter.clock.now_us())
    meter.clock.set(START_US + 3 * HOUR_US)
    assert await meter.ticker.tick() == 0
    await refresh_gauges(meter.pool, meter.clock.now_us())
    assert (LAG_SECONDS._value.get(), HALTED._value.get()) == (3 * 3600 - 60, 1)
    assert (await client.get("/v1/status")).json()["halted"] == "the clock jumped"


async def test_what_has_no_price_is_listed_and_counted(meter: Meter, client: httpx.AsyncClient) -> None:
    """A misspelt SKU was taken silently: no list and no metric showed which it was."""
    await meter.put_book(book(START_US - HOUR_US, storage={"persistent": "0.1"}))
    created = lifecycle("container.created", "c", START_US, gpu_sku="a30", gpu_count=1)
    await meter.take(created, lifecycle("container.started", "c", START_US))
    await meter.take(*(usage(f"u-{number}", START_US - number, 5, sku="tokenz") for number in range(3)))
    tokens = {"region": "vn", "kind": "service", "sku": "tokenz", "items": 3, "tenant_id": "acme"}
    assert (await client.get("/v1/unpriced")).json()["unpriced"] == [
        {**tokens, "since": format_instant(START_US - 2)},
        {"region": "vn", "kind": "gpu", "sku": "a30", "items": 1, "tenant_id": "acme", "since": None},
    ]
    status = (await client.get("/v1/status")).json()
    assert (status["unpriced_usage"], status["unpriced_resources"]) == (3, 1)
    await refresh_gauges(meter.pool, meter.clock.now_us())
    assert (UNPRICED._value.get(), UNPRICED_RESOURCES._value.get()) == (3, 1)
    await meter.put_book(book(START_US - HOUR_US, services={"tokenz": {"unit": "image", "price": "1"}}))
    assert [item["sku"] for item in (await client.get("/v1/unpriced")).json()["unpriced"]] == ["a30"]


async def test_no_input_is_answered_with_a_fault(meter: Meter, client: httpx.AsyncClient) -> None:
    await meter.put_book(book(START_US - HOUR_US, gpu={"a30": "0.6"}))
    await meter.take(lifecycle("container.created", "one", START_US, gpu_sku="a30", gpu_count=1))
    with structlog.testing.capture_logs():
        count, faults = await find_faults(client, (await client.get("/openapi.json")).json())
    assert not faults, "\n".join(faults)
    assert count > 300


async def test_who_is_charged_for_which_run_is_told_in_one_answer(meter: Meter, client: httpx.AsyncClient) -> None:
    for name in ("runs", "rests"):
        await meter.take(lifecycle("container.created", name, START_US, gpu_sku="a30", gpu_count=1))
    first = lifecycle("container.started", "runs", START_US)
    await meter.take(first, lifecycle("container.created", "runs", START_US, tenant_id="late", gpu_sku="a30"))
    names = [{"region": "vn", "resource_id": name} for name in ("runs", "rests", "unknown")]
    found = (await client.post("/v1/runs", json={"resources": names})).json()["resources"]
    assert sorted((item["resource_id"], item["tenant_id"], item["run"]) for item in found) == [
        ("rests", "acme", None),
        ("runs", "acme", {"source": first["source"], "event_id": first["id"]}),
    ]


async def test_what_accounts_are_charged_for_is_told_page_by_page(
    meter: Meter, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.metering.api.RUNS_MAX", 2)
    for name in ("a", "b", "c", "gone", "broken"):
        await meter.take(lifecycle("container.created", name, START_US, gpu_sku="a30", gpu_count=1))
        await meter.take(lifecycle("container.started", name, START_US))
    await meter.take(
        lifecycle("container.stopped", "b", START_US + 1),
        lifecycle("container.deleted", "gone", START_US + 1),
        lifecycle("container.created", "other", START_US, tenant_id="other", gpu_sku="a30", gpu_count=1),
    )
    async with meter.pool.acquire() as connection:
        await connection.execute("update resource set history = 'broken' where resource_id = 'broken'")

    async def ask(**more: object) -> dict[str, bool]:
        found: dict[str, bool] = {}
        after = None
        while True:
            body = {"accounts": [{"region": "vn", "tenant_id": "acme"}], "after": after, **more}
            page = (await client.post("/v1/charged-resources", json=body)).json()
            found |= {item["resource_id"]: item["run"] is not None for item in page["resources"]}
            after = page["next"]
            if after is None:
                return found

    assert await ask() == {"a": True, "b": False, "broken": False, "c": True}
    assert await ask(running=True) == {"a": True, "c": True}
    nobody = {"accounts": [{"region": "vn", "tenant_id": "nobody"}]}
    assert (await client.post("/v1/charged-resources", json=nobody)).json()["resources"] == []
