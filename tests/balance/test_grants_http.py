"""Grants and vouchers over HTTP: what is asked, answered and refused; a code is told once and never logged."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import structlog

from services.balance.api_grants import GrantsApi
from services.balance.app.accounts import OPERATOR_AMOUNT_MICROS_MAX
from shared.clock import DAY_US, format_instant
from shared.http import create_api
from tests.balance.batches import simple
from tests.balance.books import START_US, Books

MAX = 2**63 - 1
ENDS = format_instant(START_US + DAY_US)


@pytest.fixture
async def http(books: Books) -> AsyncIterator[httpx.AsyncClient]:
    api = create_api("test", readiness=dict)
    api.include_router(GrantsApi(books.grants, books.vouchers).router)
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://balance/v1") as client:
        yield client


async def give(http: httpx.AsyncClient, key: str = "k-1", **fields: object) -> httpx.Response:
    body = {"amount_micros": 100, "expires_at": ENDS, "reason": "launch", "actor": "kim", **fields}
    return await http.post("/accounts/vn/acme/grants", json=body, headers={"idempotency-key": key})


async def issue(http: httpx.AsyncClient, key: str = "v-1", **fields: object) -> httpx.Response:
    terms = {"region": "vn", "amount_micros": 50, "valid_days": 1, "redeem_until": ENDS}
    body = {**terms, "reason": "fair", "actor": "kim", **fields}
    return await http.post("/vouchers", json=body, headers={"idempotency-key": key})


async def redeem(http: httpx.AsyncClient, code: str, tenant: str = "acme") -> httpx.Response:
    return await http.post(f"/accounts/vn/{tenant}/voucher-redemptions", json={"code": code})


def refused(answer: httpx.Response, status: int, code: str) -> bool:
    found: dict[str, Any] = answer.json()
    assert (answer.status_code, found["type"]) == (status, f"urn:tollkeeper:problem:{code}"), answer.text
    return True


async def test_a_grant_is_given_and_what_is_left_of_it_told(books: Books, http: httpx.AsyncClient) -> None:
    given = await give(http, priority=5)
    assert given.status_code == 201
    assert given.json() == (await give(http, priority=5)).json()
    await books.post(simple(1, {"acme": 30}))
    [listed] = (await http.get("/accounts/vn/acme/grants")).json()["grants"]
    assert listed == {**given.json(), "state": "active", "remaining_micros": 70}
    assert (listed["kind"], listed["priority"], listed["expires_at"]) == ("promotion", 5, ENDS)


async def test_what_can_not_be_given_is_refused_with_its_reason(http: httpx.AsyncClient) -> None:
    assert (await give(http, "k-0")).status_code == 201
    assert refused(await give(http, "k-0", amount_micros=99), 409, "idempotency-key-reused")
    assert refused(await give(http, "k-2", amount_micros=OPERATOR_AMOUNT_MICROS_MAX + 1), 422, "invalid-request")
    assert refused(await give(http, "k-2", expires_at=format_instant(START_US)), 422, "grant-expired")
    for fields in ({"amount_micros": 0}, {"amount_micros": MAX + 1}, {"reason": "a\0b"}, {"actor": ""}, {"x": 1}):
        assert refused(await give(http, "k-2", **fields), 422, "invalid-request")
    assert refused(await http.get("/accounts/vn/nobody/grants"), 404, "account-not-found")


async def test_a_voucher_is_issued_and_redeemed_and_its_code_is_in_no_log(http: httpx.AsyncClient) -> None:
    with structlog.testing.capture_logs() as logs:
        issued = await issue(http, code="Spring-2027")
        assert (issued.status_code, issued.json()["code"]) == (201, "SPRING2027")
        assert (await issue(http, code="Spring-2027")).json() == {**issued.json(), "code": None}
        given = await redeem(http, "spring 2027")
        assert (given.status_code, given.json()["kind"], given.json()["amount_micros"]) == (201, "voucher", 50)
        assert (await redeem(http, "SPRING2027")).json() == given.json()
        unknown = [await redeem(http, "AUTUMN-2027"), await redeem(http, "?")]
        assert all(refused(answer, 422, "voucher-invalid") for answer in unknown)
        assert unknown[0].json() == unknown[1].json()
        assert refused(await redeem(http, "SPRING2027", "other"), 422, "voucher-used-up")
        assert refused(await redeem(http, "x" * 101), 422, "invalid-request")
    assert not any(code in str(logs).upper() for code in ("SPRING", "AUTUMN", "XXXX"))
    assert refused(await issue(http, "v-2", code="short"), 422, "voucher-code")
    assert refused(await issue(http, "v-2", region="eu"), 404, "unknown-region")


async def test_guesses_of_a_tenant_are_bounded_by_the_hour(http: httpx.AsyncClient) -> None:
    for _ in range(3):
        assert refused(await redeem(http, "AUTUMN-2027"), 422, "voucher-invalid")
    assert refused(await redeem(http, "AUTUMN-2027"), 429, "too-many-codes")
    assert refused(await redeem(http, "AUTUMN-2027", "other"), 422, "voucher-invalid")
    unknown = await http.post("/accounts/eu/acme/voucher-redemptions", json={"code": "AUTUMN-2027"})
    assert refused(unknown, 404, "unknown-region")
