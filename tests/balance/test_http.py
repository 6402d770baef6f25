"""Balance's HTTP on a real database: what is refused is refused with a reason, whatever comes in."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from services.balance.api import BalanceApi
from services.balance.api_hours import HoursApi
from services.balance.api_streams import StreamsApi
from services.balance.app.accounts import OPERATOR_AMOUNT_MICROS_MAX
from services.balance.app.hours import Hours
from services.balance.app.streams import Streams
from shared.clock import HOUR_US
from shared.consumer import OffsetConsumer
from shared.errors import Refusal
from shared.http import create_api
from shared.topics import PAYMENT_EVENTS
from tests.balance.batches import charges, encode, make_batch, simple, tenants_of
from tests.balance.books import GRACE_US, START_US, Books
from tests.balance.facts import captured
from tests.balance.test_stopped_streams import beyond_bigint

MAX = 2**63 - 1
START = "2027-01-15T08:00:00Z"


@pytest.fixture
async def http(books: Books) -> AsyncIterator[httpx.AsyncClient]:
    api = create_api("test", readiness=dict)
    api.include_router(BalanceApi(books.pool, books.clock, books.accounts, books.permits).router)
    api.include_router(HoursApi(Hours(books.pool, books.clock)).router)
    api.include_router(StreamsApi(Streams(books.pool, books.clock, books.charge_poster)).router)
    # An unexpected error shall be seen as its answer, 500, as a caller would see it.
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://balance/v1") as client:
        yield client


async def adjust(
    http: httpx.AsyncClient, amount: object, key: str, *, path: str = "vn/acme", **fields: object
) -> httpx.Response:
    body = {"amount_micros": amount, "reason": "test", "actor": "operator", **fields}
    return await http.post(f"/accounts/{path}/adjustments", json=body, headers={"idempotency-key": key})


def refused(answer: httpx.Response, status: int, code: str) -> bool:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    found: dict[str, Any] = answer.json()
    assert (answer.status_code, found["type"]) == (status, f"urn:tollkeeper:problem:{code}"), answer.text
    return True


async def test_a_key_used_again_answers_the_same_and_refuses_another_body(
    books: Books, http: httpx.AsyncClient
) -> None:
    first = await adjust(http, 100, "k1")
    assert (first.status_code, first.json()["balance_micros"]) == (201, 100)
    await adjust(http, 5, "k2")
    assert (await adjust(http, 100, "k1")).json() == first.json()
    for fields in ({"amount": 101}, {"reason": "another"}, {"actor": "another"}):
        amount = fields.pop("amount", 100)
        assert refused(await adjust(http, amount, "k1", **fields), 409, "idempotency-key-reused")
    # A key is the account's own.
    assert (await adjust(http, 7, "k1", path="vn/other")).json()["balance_micros"] == 7
    assert await books.balance("acme") == 105
    assert await books.audit() == []


async def test_copies_at_once_are_one_entry(books: Books, http: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(adjust(http, 100, "k1") for _ in range(12)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert await books.rows("select count(*) from entry") == [(1,)]
    assert await books.told("acme") == ["opened", "credited"]
    assert await books.audit() == []


async def test_no_operator_leaves_an_account_where_charges_find_no_room(books: Books, http: httpx.AsyncClient) -> None:
    most = OPERATOR_AMOUNT_MICROS_MAX
    for amount in (MAX + 1, -MAX - 2, 10**30, 0, "5", 1.5, None, True):
        assert refused(await adjust(http, amount, "bad"), 422, "empty-adjustment" if amount == 0 else "invalid-request")
    for amount in (MAX, -MAX, most + 1, -most - 1):
        assert refused(await adjust(http, amount, "far"), 422, "out-of-range")
    assert (await adjust(http, most, "k1")).json()["balance_micros"] == most
    for number in range(2, 47):
        assert (await adjust(http, -most, f"k{number}")).status_code == 201
    assert (await adjust(http, -most, "k47")).json()["balance_micros"] == -45 * most
    assert (await adjust(http, -most, "k48")).json()["balance_micros"] == -46 * most
    assert refused(await adjust(http, -most, "k49"), 422, "out-of-range")
    assert (await adjust(http, 1, "k50")).status_code == 201
    assert (await adjust(http, most, "k1")).json()["balance_micros"] == most, "a repeat moves nothing"
    await books.consume(simple(1, {"acme": 5}))
    assert await books.rows("select stopped_reason from charge_stream") == [(None,)]
    assert await books.audit() == []


async def test_streams_in_trouble_are_listed_shown_and_decided_over(books: Books, http: httpx.AsyncClient) -> None:
    [tenant] = tenants_of(1, 1)
    await books.consume(simple(1, {tenant: 1}), beyond_bigint(2), simple(3, {tenant: 3}))
    listed = (await http.get("/streams")).json()
    assert [(row["shard"], row["stopped_seq"], row["waiting"]) for row in listed["streams"]] == [(1, 2, 2)]
    [shown] = (await http.get("/streams/1")).json()["next_batches"]
    assert base64.b64decode(shown["value_base64"]) == beyond_bigint(2)
    assert shown["fault"]
    word = {"actor": "an operator", "reason": "a test"}
    assert refused(await http.post("/streams/1/mend", json={"seq": 2, "text": "{}", **word}), 422, "batch-refused")
    assert refused(await http.post("/streams/1/mend", json={"seq": 2, **word}), 422, "invalid-request")
    assert refused(await http.post("/streams/1/skip", json={"seq": 3, **word}), 409, "not-the-next-batch")
    assert refused(await http.get("/streams/3"), 404, "stream-not-found")
    mended = make_batch(1, 2, [charges(tenant, [("gpu", "charge", 2)])]).model_dump_json()
    answer = await http.post("/streams/1/mend", json={"seq": 2, "text": mended, **word})
    assert (answer.status_code, answer.json()["seq"], answer.json()["stopped_reason"]) == (200, 3, None)
    assert (await http.get("/streams")).json() == {"streams": [], "next": None}
    assert [row["seq"] for row in (await http.get("/streams?in_trouble=false")).json()["streams"]] == [3]
    [decided] = (await http.get("/streams/1")).json()["decisions"]
    assert (decided["kind"], decided["actor"]) == ("mended", "an operator")


async def test_entries_are_asked_for_by_number_hour_cause_and_the_last(books: Books, http: httpx.AsyncClient) -> None:
    await adjust(http, 5, "k1")
    books.clock.set(START_US + HOUR_US)
    await books.consume(simple(1, {"acme": 1}), simple(2, {"acme": 2}))
    await adjust(http, 6, "k2")

    async def numbers(query: str) -> list[int]:
        answer = (await http.get(f"/accounts/vn/acme/entries?{query}")).json()
        return [entry["entry_number"] for entry in answer["entries"]]

    assert await numbers("") == [1, 2, 3, 4]
    assert await numbers("number=3") == [3]
    assert await numbers("number=9") == []
    assert await numbers("charges=true") == [2, 3]
    assert await numbers("latest=true&limit=2") == [3, 4]
    assert await numbers("latest=true&limit=1&charges=true") == [3]
    assert await numbers("from=2027-01-15T09:00:00Z&to=2027-01-15T10:00:00Z") == [2, 3, 4]
    assert await numbers("to=2027-01-15T09:00:00Z") == [1]
    answer = await http.get("/accounts/vn/acme/charged", params={"resource_id": "ctr-acme"})
    assert answer.json()["kinds"] == [{"kind": "gpu", "slots": 2, "amount_micros": 3}]
    assert refused(await http.get("/accounts/vn/acme/charged?resource_id=%00"), 422, "invalid-request")


async def test_a_region_of_another_deployment_is_refused(books: Books, http: httpx.AsyncClient) -> None:
    assert refused(await http.put("/accounts/us/acme"), 404, "unknown-region")
    assert refused(await adjust(http, 1, "k1", path="us/acme"), 404, "unknown-region")
    for tail in ("", "/entries", "/hours", "/hours.csv"):
        assert refused(await http.get(f"/accounts/us/acme{tail}"), 404, "account-not-found")
    assert await books.rows("select count(*) from account") == [(0,)]


@pytest.mark.parametrize("name", ["%00", "a%00b", "a b", "%C3%A9", "-a", "a" * 65, "a%0Ab", "'%3B--", "%FF", "a%2Fb"])
async def test_a_name_that_can_not_be_is_refused_everywhere(books: Books, http: httpx.AsyncClient, name: str) -> None:
    answers = [await http.put(f"/accounts/vn/{name}"), await adjust(http, 1, "k1", path=f"vn/{name}")]
    answers += [await http.get(f"/accounts/vn/{name}{tail}") for tail in ("", "/entries", "/hours", "/hours.csv")]
    answers += [await http.get(f"/accounts/{name}/acme")]
    since = {"negative_since": START, "due_at": START}
    answers += [await http.post("/deletion-permits", json={"region": "vn", "tenant_id": name, **since})]
    answers += [await http.post(f"/deletion-permits/{name}/redemptions", json={"resource_id": "ctr-1"})]
    assert {answer.status_code for answer in answers} <= {404, 405, 422}, [answer.text for answer in answers]
    assert await books.rows("select count(*) from account") == [(0,)]


def cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


BAD_CURSORS = ["x", "%00", "é", cursor("abc"), cursor("1" * 30), cursor("1" * 5000), cursor("-9" + "9" * 30)]
BAD_HOUR_CURSORS = [
    cursor(text) for text in ("7", "[]", '[1,"a"]', '["1","a","b"]', '[1e9,"a","b"]', f'[{10**18},"a","b"]', "null")
] + [cursor('[1800000000000000,"a\\u0000","gpu"]'), cursor("[1,2,3]"), cursor("{}"), cursor('[true,"a","b"]')]
BAD_HOUR_CURSORS += [
    cursor(f"[1800000000000000,{name},{moment}]")
    for name, moment in (
        ('"a","gpu"', "-1,0,9"),
        ('"a","gpu"', f"0,{10**18},9"),
        ('"a","gpu"', f"0,0,{2**63}"),
        ('"a","gpu"', "0,0,true"),
        ('"a\\u0000","gpu"', "0,0,9"),
    )
]


async def test_a_cursor_that_nobody_gave_is_refused(http: httpx.AsyncClient) -> None:
    await adjust(http, 1, "k1")
    for after in BAD_CURSORS:
        for path in ("/accounts", "/accounts/vn/acme/entries", "/accounts/vn/acme/hours"):
            assert refused(await http.get(path, params={"after": after}), 422, "invalid-cursor"), after
    for after in BAD_HOUR_CURSORS:
        assert refused(await http.get("/accounts/vn/acme/hours", params={"after": after}), 422, "invalid-cursor"), after


async def test_what_no_column_holds_is_refused(http: httpx.AsyncClient) -> None:
    await adjust(http, 1, "k1")
    paths = [f"/accounts?balance_at_most_micros={MAX + 1}", f"/accounts?balance_at_most_micros={-MAX - 2}"]
    paths += ["/accounts?limit=0", "/accounts?limit=1001", f"/evidence/{2**31}/1", f"/evidence/0/{MAX + 1}"]
    paths += ["/evidence/-1/1", "/accounts/vn/acme/hours?from=now", "/accounts/vn/acme/hours?to=9999-99-99T00:00:00Z"]
    for path in paths:
        assert refused(await http.get(path), 422, "invalid-request"), path
    assert refused(await http.get("/accounts/vn/acme/hours?from=2027-01-15T08:30:00Z"), 422, "not-on-the-hour")
    assert refused(await http.get("/evidence/0/1"), 404, "evidence-not-found")
    for fields in ({"reason": "a\0"}, {"actor": "\0"}, {"reason": ""}, {"more": 1}):
        assert refused(await adjust(http, 1, "k2", **fields), 422, "invalid-request"), fields
    raw = b'{"amount_micros": 1, "actor": "a", "reason": "\\ud800"}'
    answer = await http.post("/accounts/vn/acme/adjustments", content=raw, headers={"idempotency-key": "k2"})
    assert refused(answer, 422, "invalid-request")
    assert refused(await http.post("/accounts/vn/acme/adjustments", json={}), 422, "invalid-request")
    far = await http.get("/accounts/vn/acme/hours?from=0001-01-01T00:00:00Z&to=9999-12-31T23:00:00Z")
    assert refused(far, 422, "invalid-request")


async def test_pages_of_entries_and_accounts_go_on_where_they_ended(http: httpx.AsyncClient) -> None:
    for number in range(1, 8):
        await adjust(http, number, f"k{number}")
        await http.put(f"/accounts/jp/t{number}")
    for path, name in (("/accounts/vn/acme/entries", "entries"), ("/accounts", "accounts")):
        whole = (await http.get(path)).json()[name]
        found: list[object] = []
        after: dict[str, str] = {}
        while True:
            page = (await http.get(path, params={"limit": 3, **after})).json()
            found += page[name]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        assert found == whole
        assert len(whole) == (7 if name == "entries" else 8)


async def test_hours_are_answered_in_pages_and_as_csv(books: Books, http: httpx.AsyncClient) -> None:
    [tenant] = tenants_of(1, 1)
    await books.post(encode(make_batch(1, 1, [charges(tenant, [("gpu", "charge", 5), ("storage", "charge", 2)])])))
    path = f"/accounts/vn/{tenant}/hours"
    first = (await http.get(path, params={"limit": 1})).json()
    row = {"hour": START, "resource_id": f"ctr-{tenant}", "kind": "gpu", "slots": 1, "amount_micros": 5, "open": True}
    assert first["hours"] == [row]
    kinds = [{"kind": "gpu", "slots": 1, "amount_micros": 5}, {"kind": "storage", "slots": 1, "amount_micros": 2}]
    assert first["totals"] == {"amount_micros": 7, "kinds": kinds}
    second = (await http.get(path, params={"limit": 1, "after": first["next"]})).json()
    assert [row["amount_micros"] for row in second["hours"]] == [2]
    assert (second["next"], second["totals"]) == (None, None)
    assert (first["from"], first["to"]) == (START, "2027-01-15T09:00:00Z")
    csv = await http.get(f"{path}.csv", params={"from": START})
    assert csv.headers["content-type"].startswith("text/csv")
    assert len(csv.text.splitlines()) == 3
    later = await http.get(path, params={"from": "2027-01-15T09:00:00Z"})
    assert (later.json()["hours"], later.json()["totals"]["amount_micros"]) == ([], 0)


async def test_a_permit_is_granted_and_redeemed(books: Books, http: httpx.AsyncClient) -> None:
    [tenant] = tenants_of(1, 1)
    await books.post(simple(1, {tenant: 1}))
    await adjust(http, -7, "k1", path=f"vn/{tenant}")
    account = (await http.get(f"/accounts/vn/{tenant}")).json()
    assert (account["balance_micros"], account["balance_without_reversals_micros"]) == (-8, -1)
    since = account["negative_since"]
    books.clock.set(START_US + GRACE_US)
    body = {"region": "vn", "tenant_id": tenant, "negative_since": since, "due_at": "2027-01-16T08:00:00Z"}
    granted = await http.post("/deletion-permits", json=body)
    assert (granted.status_code, granted.json()["expires_at"]) == (201, "2027-01-16T08:01:00Z")
    path = f"/deletion-permits/{granted.json()['permit_id']}/redemptions"
    obeying, commanding = {"resource_id": "ctr-1"}, {"resource_id": "ctr-1", "commanding": True}
    assert refused(await http.post(path, json=obeying), 409, "not-commanded")
    redeemed = [(await http.post(path, json=body)).json()["redeemed_at"] for body in (commanding, obeying)]
    assert redeemed == ["2027-01-16T08:00:00Z"] * 2
    assert refused(await http.post(path, json={"resource_id": "of somebody else"}), 409, "not-commanded")
    for resource_id in ("", "a\0", "x" * 201, 5):
        assert refused(await http.post(path, json={"resource_id": resource_id}), 422, "invalid-request")
    assert refused(
        await http.post("/deletion-permits/none/redemptions", json={"resource_id": "a"}), 404, "permit-not-found"
    )
    books.clock.set(START_US + GRACE_US + HOUR_US)
    assert refused(await http.post(path, json={**commanding, "resource_id": "ctr-2"}), 409, "permit-expired")


async def test_a_stream_is_resumed_by_name_and_reason(books: Books, http: httpx.AsyncClient) -> None:
    word = {"actor": "an operator", "reason": "found out"}
    assert refused(await http.post("/streams/1/resume", json=word), 409, "stream-not-stopped")
    assert refused(await http.post("/streams/1/resume", json={**word, "reason": ""}), 422, "invalid-request")
    assert refused(await http.post("/streams/-1/resume", json=word), 422, "invalid-request")
    [tenant] = tenants_of(1, 1)
    await books.post(simple(1, {tenant: 5}))
    await books.post(simple(1, {tenant: 6}))
    answer = await http.post("/streams/1/resume", json=word)
    after = {"shard": 1, "seq": 1, "stopped_reason": None, "set_aside": 1, "would_post": None}
    assert (answer.status_code, answer.json()) == (200, after)


async def test_a_dead_letter_that_the_database_refuses_again_is_a_refusal(books: Books) -> None:
    await books.pay(captured("p-1", MAX), b"no event")
    apply = books.payment_poster.apply
    consumer = OffsetConsumer(
        books.pool, books.clock, apply, bootstrap="", topic_prefix="", topics=(PAYMENT_EVENTS,), group="b"
    )
    [(dead_id,)] = await books.rows("select dead_id from dead_letter")
    with pytest.raises(Refusal, match="dead-letter-refused-again") as refusal:
        await consumer.replay(str(dead_id), captured("p-2", 1).model_dump_json().encode())
    assert refusal.value.status == 422
    await consumer.replay(str(dead_id), captured("p-2", 1, tenant="other").model_dump_json().encode())
    assert await books.balance("other") == 1
