"""Admission on a real database: nobody passes on what another holds, and a hold ends with the first charge."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from services.balance.api_admissions import AdmissionProblem, AdmissionsApi
from services.balance.app.admissions import Admissions, Asked
from services.balance.app.grants import GrantRequest
from services.balance.rules.admission import Need
from shared.clock import HOUR_US, MINUTE_US, format_instant
from shared.errors import Refusal
from shared.events.prices import PriceBookPublished
from shared.http import create_api
from shared.ids import shard_of
from tests.balance.batches import SHARDS, charges, encode, make_batch
from tests.balance.books import START_US, TERMS, Books, make_settings

UNIT = 1_000_000
NEED = Need("h100", 1, 10)
HOUR = 20 * UNIT + 10 * 100
CREATE = {"action": "create", "gpu_sku": "h100", "gpu_count": 1, "persistent_storage_gb": 10}


def book(
    version: int, gpu: dict[str, str], *, from_us: int = START_US - HOUR_US, region: str = "vn"
) -> PriceBookPublished:
    return PriceBookPublished(
        region=region,
        effective_from=from_us,
        gpu=gpu,
        storage={"persistent": "0.0001"},
        version=version,
        published_at=START_US,
    )


@pytest.fixture
async def priced(books: Books) -> Books:
    await books.price(book(1, {"h100": "20", "cpu-only": "0"}))
    return books


@pytest.fixture
async def http(priced: Books) -> AsyncIterator[httpx.AsyncClient]:
    api = create_api("test", readiness=dict)
    api.include_router(AdmissionsApi(priced.admissions, priced.clock).router)
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://balance/v1") as client:
        yield client


def asked(key: str = "k", need: Need = NEED) -> Asked:
    return Asked(key, "create", need)


async def post(http: httpx.AsyncClient, key: str = "k", **body: Any) -> httpx.Response:
    body = {"region": "vn", "tenant_id": "acme", **CREATE} | body
    return await http.post("/admissions", json=body, headers={"idempotency-key": key})


async def test_requests_at_once_can_not_pass_on_one_balance(priced: Books) -> None:
    await priced.credit("acme", 3 * HOUR, "c")
    answers = await asyncio.gather(
        *(priced.admissions.admit("vn", "acme", asked(f"k{number}")) for number in range(30)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, Refusal)]
    assert (len(refused), len(answers) - len(refused)) == (27, 3)
    assert {answer.extra["shortfall_micros"] for answer in refused} == {HOUR}
    assert await priced.rows("select sum(amount_micros), count(*) from hold") == [(3 * HOUR, 3)]


async def test_a_hold_ends_with_the_first_charge_of_its_own_account(priced: Books) -> None:
    await priced.credit("acme", HOUR, "c")
    await priced.credit("other", HOUR, "c")
    hold, _ = await priced.admissions.admit("vn", "acme", asked())
    with pytest.raises(Refusal, match="insufficient-balance"):
        await priced.admissions.admit("vn", "acme", asked("k2"))
    seqs: dict[int, int] = {}

    async def charge(tenant_id: str) -> None:
        account, lines = charges(tenant_id, [("gpu", "charge", 7)])
        account = account.model_copy(update={"admission_ids": [hold.admission_id]})
        shard = shard_of("vn", tenant_id, SHARDS)
        seqs[shard] = seqs.get(shard, 0) + 1
        await priced.post(encode(make_batch(shard, seqs[shard], [(account, lines)])))

    # Somebody else's event names it: it is not his to end.
    await charge("other")
    assert (await priced.admissions.load(hold.admission_id)).ended_at_us is None
    await charge("acme")
    ended = await priced.admissions.load(hold.admission_id)
    assert (ended.end_reason, ended.ended_at_us) == ("charged", START_US)
    await priced.credit("acme", 7, "c2")
    assert (await priced.admissions.admit("vn", "acme", asked("k2")))[1]


async def test_a_hold_ends_by_time_or_by_release(priced: Books) -> None:
    await priced.credit("acme", HOUR, "c")
    first, _ = await priced.admissions.admit("vn", "acme", asked("k1"))
    priced.clock.set(START_US + 30 * MINUTE_US - 1)
    with pytest.raises(Refusal, match="insufficient-balance"):
        await priced.admissions.admit("vn", "acme", asked("k2"))
    priced.clock.set(START_US + 30 * MINUTE_US)
    second, _ = await priced.admissions.admit("vn", "acme", asked("k2"))
    assert first.admission_id != second.admission_id
    assert (await priced.admissions.release(second.admission_id)).end_reason == "released"
    assert (await priced.admissions.admit("vn", "acme", asked("k3")))[1]


async def test_a_repeat_has_the_same_answer_also_when_the_balance_is_gone(priced: Books) -> None:
    await priced.credit("acme", HOUR, "c")
    first = await priced.admissions.admit("vn", "acme", asked())
    await priced.credit("acme", -HOUR, "gone")
    assert await priced.admissions.admit("vn", "acme", asked()) == (first[0], False)
    with pytest.raises(Refusal, match="idempotency-key-reused"):
        await priced.admissions.admit("vn", "acme", asked(need=replace(NEED, gpu_count=2)))


async def test_the_dearest_price_of_the_hour_counts_and_a_late_repeat_of_a_book_does_not(priced: Books) -> None:
    await priced.price(book(3, {"h100": "50"}, from_us=START_US + HOUR_US - 1))
    await priced.price(book(2, {"h100": "30"}, from_us=START_US + HOUR_US - 1))
    await priced.price(book(4, {"h100": "90"}, from_us=START_US + HOUR_US))
    await priced.credit("acme", 50 * UNIT + 1000, "c")
    hold, _ = await priced.admissions.admit("vn", "acme", asked())
    assert hold.amount_micros == 50 * UNIT + 1000


async def test_credit_that_ends_within_the_hour_does_not_count(priced: Books) -> None:
    grant = GrantRequest("g", "promotion", HOUR, 1, "welcome", "operator", expires_at_us=START_US + HOUR_US - 1)
    await priced.grants.give("vn", "acme", grant)
    with pytest.raises(Refusal, match="insufficient-balance") as refused:
        await priced.admissions.admit("vn", "acme", asked())
    assert (refused.value.extra["expiring_micros"], refused.value.extra["shortfall_micros"]) == (HOUR, HOUR)
    longer = replace(grant, idempotency_key="g2", expires_at_us=START_US + HOUR_US)
    await priced.grants.give("vn", "acme", longer)
    assert (await priced.admissions.admit("vn", "acme", asked()))[1]


async def test_what_runs_counts_where_it_is_set_so(priced: Books) -> None:
    await priced.credit("acme", 2 * HOUR, "c")
    shard = shard_of("vn", "acme", SHARDS)
    await priced.post(encode(make_batch(shard, 1, [charges("acme", [("gpu", "charge", 1)], burn=HOUR)])))
    terms = replace(TERMS, counts_burn=True)
    strict = Admissions(priced.pool, priced.clock, make_settings(), priced.grants, terms)
    with pytest.raises(Refusal, match="insufficient-balance") as refused:
        await strict.admit("vn", "acme", asked())
    assert refused.value.extra["shortfall_micros"] == 1
    assert refused.value.extra["lasts_seconds"] == 7199
    assert (await priced.admissions.admit("vn", "acme", asked()))[1]


async def test_a_refusal_tells_that_the_balance_is_low_once(priced: Books) -> None:
    await priced.credit("acme", HOUR - 1, "c")
    for key in ("k1", "k2"):
        with pytest.raises(Refusal, match="insufficient-balance"):
            await priced.admissions.admit("vn", "acme", asked(key))
    assert (await priced.told("acme"))[-2:] == ["credited", "low"]
    priced.clock.set(START_US + 6 * HOUR_US)
    with pytest.raises(Refusal, match="insufficient-balance"):
        await priced.admissions.admit("vn", "acme", asked("k3"))
    assert (await priced.told("acme"))[-3:] == ["credited", "low", "low"]


async def test_over_http_with_its_problem(priced: Books, http: httpx.AsyncClient) -> None:
    refused = await post(http)
    assert (refused.status_code, refused.headers["content-type"]) == (402, "application/problem+json")
    problem = AdmissionProblem.model_validate(refused.json())
    assert (problem.balance_micros, problem.required_micros, problem.shortfall_micros) == (0, HOUR, HOUR)
    await priced.credit("acme", HOUR, "c")
    admitted = await post(http)
    assert (admitted.status_code, admitted.json()["state"]) == (201, "held")
    assert admitted.json()["expires_at"] == format_instant(START_US + 30 * MINUTE_US)
    again = await post(http)
    assert (again.status_code, again.json()) == (200, admitted.json())
    address = f"/admissions/{admitted.json()['admission_id']}"
    assert (await http.get(address)).json() == admitted.json()
    assert (await http.delete(address)).json()["state"] == "released"
    assert (await http.delete("/admissions/none")).status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"gpu_sku": "h900"}, 422),
        ({"gpu_sku": None}, 422),
        ({"gpu_sku": None, "gpu_count": 0}, 402),
        ({"gpu_count": -1}, 422),
        ({"gpu_count": 2**62}, 422),
        ({"gpu_count": True}, 422),
        ({"gpu_sku": "h\x00"}, 422),
        ({"tenant_id": "a b"}, 422),
        ({"region": "us"}, 404),
        ({"action": "delete"}, 422),
        ({"action": "start"}, 422),
        ({"action": "start", "persistent_storage_gb": None}, 402),
        ({"size_gb": 1}, 422),
        ({"extra": 1}, 422),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(
    priced: Books, http: httpx.AsyncClient, body: dict[str, Any], status: int
) -> None:
    answer = await post(http, **body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert await priced.rows("select count(*) from hold") == [(0,)]


async def test_a_book_that_can_not_be_read_stands_before_no_other(books: Books) -> None:
    await books.credit("acme", 1, "today's partitions")
    newer = book(1, {"h100": "20"}).model_dump_json().replace('"version"', '"added":{"a":[1]},"version"')
    await books.price(b"no book", b"{}", newer.encode())
    assert len(books.dead) == 2
    assert await books.rows("select sku, price_micros from price order by 1") == [
        ("h100", 20 * UNIT),
        ("persistent", 100),
    ]
