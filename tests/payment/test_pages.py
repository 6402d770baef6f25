"""What a customer sees after paying, and the receipts that are issued: numbered without a gap, one per payment."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from services.payment.api_pages import PagesApi
from services.payment.providers import BadSignature, Notice
from services.payment.rules.facts import Payer, Refunded
from shared.clock import parse_instant
from shared.http import create_api
from tests.payment.shop import Shop, paid, vnd


@pytest.fixture
async def browser(shop: Shop) -> AsyncIterator[httpx.AsyncClient]:
    def read(query: str) -> Notice:
        if not query.startswith("signed="):
            raise BadSignature("no")
        return Notice("n", "return", None, query.removeprefix("signed="), ())

    api = create_api("test", readiness=dict)
    service = shop.service
    api.include_router(PagesApi(service.topups, service.reconciler.balance, service.receipts, read).router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://payment") as client:
        yield client


async def test_the_return_page_shows_the_order_and_the_balance_until_it_is_credited(
    shop: Shop, browser: httpx.AsyncClient
) -> None:
    order = await shop.order()
    page = await browser.get("/return/stripe", params={"order": order.order_id})
    assert page.status_code == 200
    assert "Waiting for your payment" in page.text
    assert 'http-equiv="refresh" content="1"' in page.text
    assert "250,000 VND" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    await shop.apply(paid(order))
    assert "Payment received" in (await browser.get(f"/orders/{order.order_id}")).text
    await shop.acknowledge("stripe:pi_1")
    shop.balance.balance_micros = 260_000_000_000
    page = await browser.get("/return/vnpay?signed=" + order.order_id)
    assert "Credits added" in page.text
    assert "260,000 VND" in page.text
    assert "http-equiv" not in page.text


async def test_a_return_that_nobody_signed_shows_nothing_and_an_order_that_is_none_is_said_to_be(
    shop: Shop, browser: httpx.AsyncClient
) -> None:
    order = await shop.order()
    page = await browser.get("/return/vnpay?vnp_TxnRef=" + order.order_id)
    assert (page.status_code, order.order_id in page.text) == (400, False)
    page = await browser.get("/return/stripe", params={"order": "<script>x</script>"})
    assert (page.status_code, "<script>" in page.text) == (404, False)
    shop.balance.down = True
    page = await browser.get(f"/orders/{order.order_id}")
    assert (page.status_code, "Balance now" in page.text) == (200, False)


async def test_receipts_are_issued_once_without_a_gap_for_credited_payments_only(shop: Shop) -> None:
    orders = [await shop.order() for _ in range(4)]
    for number, order in enumerate(orders):
        await shop.apply(paid(order, f"stripe:pi_{number}"))
    for number in (2, 0, 3):
        await shop.acknowledge(f"stripe:pi_{number}")
    await asyncio.gather(*(shop.service.receipts.issue() for _ in range(10)))
    await shop.service.receipts.issue()
    shop.clock.set(parse_instant("2028-01-01T00:00:00Z"))
    await shop.acknowledge("stripe:pi_1")
    await shop.service.receipts.issue()
    rows = await shop.rows("select number, payment_id from receipt order by number")
    assert [number for number, _ in rows] == ["VN-2027-000001", "VN-2027-000002", "VN-2027-000003", "VN-2028-000001"]
    assert rows[-1][1] == "stripe:pi_1"


async def test_a_receipt_names_the_payer_escaped_and_what_went_back(shop: Shop, browser: httpx.AsyncClient) -> None:
    order = await shop.order()
    await shop.apply(paid(order, payer=Payer("<b>Trần Thị Ánh</b>", "anh@example.com")))
    await shop.acknowledge("stripe:pi_1")
    await shop.service.receipts.issue()
    await shop.apply(Refunded("stripe:pi_1", "stripe:re_1", vnd(50_000), "succeeded"))
    page = await browser.get("/v1/receipts/VN-2027-000001")
    assert "&lt;b&gt;Trần Thị Ánh&lt;/b&gt;, anh@example.com" in page.text
    assert "Refunded on 2027-01-15" in page.text
    assert "-50,000 VND" in page.text
    document = await browser.get("/v1/receipts/VN-2027-000001.pdf")
    assert (document.headers["content-type"], document.content[:5]) == ("application/pdf", b"%PDF-")
    assert (await browser.get("/v1/receipts/VN-2027-000002")).status_code == 404
