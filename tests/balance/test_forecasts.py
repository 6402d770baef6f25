"""Forecasts on a real database, over HTTP."""

from collections.abc import AsyncIterator

import httpx
import pytest

from services.balance.api_forecasts import AccountForecastAnswer, ForecastsApi
from services.balance.app.forecasts import Forecasts
from services.balance.app.grants import GrantRequest
from shared.clock import HOUR_US, format_instant
from shared.http import create_api
from shared.ids import shard_of
from tests.balance.batches import SHARDS, charges, encode, make_batch
from tests.balance.books import GRACE_US, START_US, Books, make_settings
from tests.balance.test_admissions import book

UNIT = 1_000_000


@pytest.fixture
async def http(books: Books) -> AsyncIterator[httpx.AsyncClient]:
    api = create_api("test", readiness=dict)
    api.include_router(ForecastsApi(Forecasts(books.pool, books.clock, make_settings(), books.grants)).router)
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://balance/v1/accounts/vn/acme") as client:
        yield client


async def run_at(books: Books, burn_micros: int, seq: int = 1) -> None:
    shard = shard_of("vn", "acme", SHARDS)
    await books.post(encode(make_batch(shard, seq, [charges("acme", [("gpu", "charge", 1)], burn=burn_micros)])))


async def ask(http: httpx.AsyncClient, **parameters: object) -> AccountForecastAnswer:
    answer = await http.get("/forecast", params={name: str(value) for name, value in parameters.items()})
    assert answer.is_success, answer.text
    return AccountForecastAnswer.model_validate(answer.json())


def after(hours: int) -> str:
    return format_instant(START_US + hours * HOUR_US)


async def test_when_the_next_states_begin_and_what_keeps_them_away(books: Books, http: httpx.AsyncClient) -> None:
    await books.price(book(1, {"h100": "20"}))
    await books.credit("acme", 100 * UNIT + 1, "c")
    await run_at(books, 10 * UNIT)
    found = await ask(http, until=after(24), gpu_sku="h100", gpu_count=2)
    now = found.forecast
    assert (now.stopped_at, now.lasts_seconds) == (after(10), 36_000)
    assert now.deleted_at == format_instant(START_US + 10 * HOUR_US + GRACE_US)
    # An hour is left there, less a micro.
    assert now.low_at == format_instant(START_US + 9 * HOUR_US + 360)
    assert now.top_up_micros == 140 * UNIT
    assert found.with_more is not None
    assert (found.with_more.burn_micros_per_hour, found.with_more.stopped_at) == (50 * UNIT, after(2))
    assert found.with_more.top_up_micros == 1100 * UNIT


async def test_a_grant_that_ends_on_the_way_takes_its_rest_with_it(books: Books, http: httpx.AsyncClient) -> None:
    grant = GrantRequest("g", "promotion", 100 * UNIT, 1, "welcome", "operator", expires_at_us=START_US + 2 * HOUR_US)
    await books.grants.give("vn", "acme", grant)
    await books.credit("acme", 30 * UNIT, "c")
    await run_at(books, 10 * UNIT)
    found = await ask(http)
    assert (found.forecast.stopped_at, found.with_more) == (after(5), None)


async def test_what_does_not_burn_is_never_stopped_and_what_is_below_zero_is(
    books: Books, http: httpx.AsyncClient
) -> None:
    await books.credit("acme", UNIT, "c")
    found = (await ask(http)).forecast
    assert (found.low_at, found.stopped_at, found.deleted_at, found.lasts_seconds) == (None, None, None, None)
    await books.credit("acme", -2 * UNIT, "d")
    found = (await ask(http)).forecast
    assert (found.stopped_at, found.lasts_seconds) == (after(0), 0)
    assert found.deleted_at == format_instant(START_US + GRACE_US)


@pytest.mark.parametrize(
    "query", ["until=2020-01-01T00:00:00Z", "until=soon", "gpu_sku=%00", "gpu_sku=h900", "storage_gb=-1", "gpu_count=0"]
)
async def test_a_question_that_makes_no_sense_is_refused(books: Books, http: httpx.AsyncClient, query: str) -> None:
    await books.credit("acme", UNIT, "c")
    answer = await http.get(f"/forecast?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), answer.text


async def test_nobody_has_no_forecast(http: httpx.AsyncClient) -> None:
    assert (await http.get("/forecast")).status_code == 404
