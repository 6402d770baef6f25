"""What a customer sees after paying, and the receipts that are issued: numbered without a gap, one per payment."""

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import date

import httpx
import pytest

from services.payment.api import CSV_COLUMNS, csv_rows
from services.payment.api_pages import PagesApi
from services.payment.app.settlement import SettlementWish
from services.payment.providers import BadSignature, Notice
from services.payment.rules.conversion import Rate, parse_rate
from services.payment.rules.facts import Money, Payer, Refunded
from services.payment.rules.receipts import Receipt
from services.payment.store.history import load_history
from shared.clock import parse_instant
from shared.db import transaction
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
    page = await browser.get("/return/stripe", params={"order": order.page_token})
    assert page.status_code == 200
    assert "Waiting for your payment" in page.text
    assert 'http-equiv="refresh" content="1"' in page.text
    assert "250,000 VND" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    await shop.apply(paid(order))
    assert "Payment received" in (await browser.get(f"/orders/{order.page_token}")).text
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
    page = await browser.get(f"/orders/{order.page_token}")
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


async def test_a_receipt_that_cant_be_written_holds_up_no_other(shop: Shop) -> None:
    orders = [await shop.order() for _ in range(3)]
    for number, order in enumerate(orders):
        await shop.apply(paid(order, f"stripe:pi_{number}"))
        await shop.acknowledge(f"stripe:pi_{number}")
        if number == 0:
            await shop.service.receipts.issue()
            # As a row that a restore of one table left: its receipt is there, and it says that there is none.
            await shop.rows("update payment set receipt_issued = false")
    assert await shop.service.receipts.issue() == 3
    rows = await shop.rows("select number, payment_id from receipt order by number")
    assert rows == [(f"VN-2027-00000{number + 1}", f"stripe:pi_{number}") for number in range(3)]
    assert await shop.rows("select kind, item from set_aside") == [("receipt", "stripe:pi_0")]
    assert await shop.service.receipts.issue() == 0


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


async def test_only_the_random_token_shows_an_order(shop: Shop, browser: httpx.AsyncClient) -> None:
    """An order's id can be worked out from its tenant and key; the token can't."""
    orders = [await shop.order() for _ in range(3)]
    assert len({order.page_token for order in orders}) == 3
    shop.balance.balance_micros = 123_000_000
    for path in ("/orders/", "/return/stripe?order="):
        page = await browser.get(path + orders[0].order_id)
        assert (page.status_code, "123" in page.text, "acme" in page.text) == (404, False, False)
        page = await browser.get(path + orders[0].page_token)
        assert (page.status_code, "123 VND" in page.text) == (200, True)
    assert shop.stripe.opened[0].page_token == orders[0].page_token


@pytest.mark.parametrize(
    "path",
    [
        "/orders/%00",
        "/orders/" + "0" * 31 + "%00",
        "/return/stripe?order=%00",
        "/return/stripe?order=" + "x" * 200,
        "/return/vnpay?signed=%00",
        "/v1/receipts/%00",
        "/v1/receipts/%00.pdf",
        "/v1/receipts/" + "x" * 300,
    ],
)
async def test_no_address_is_an_error_of_ours(browser: httpx.AsyncClient, path: str) -> None:
    assert 400 <= (await browser.get(path)).status_code < 500


async def test_what_a_person_settled_is_shown_as_it_was_settled(shop: Shop, browser: httpx.AsyncClient) -> None:
    """10 dollars were quoted as 300,000 dong; 12 came, and 100,000 dong were credited."""
    rates = shop.service.rates
    await rates.publish(Rate("USD", "VND", parse_rate("30000"), date(2027, 1, 15)), "treasury")
    quote = await rates.quote("vn", Money(10_000_000, "USD"))
    order = await shop.order("10.00", currency="USD", quote_id=quote.quote_id)
    await shop.apply(paid(order, money=Money(12_000_000, "USD")))
    [(item_id,)] = await shop.rows("select item_id from queue_item")
    await shop.service.settlement.settle(item_id, SettlementWish("credit", "agreed", "kim", 100_000_000_000))
    await shop.acknowledge("stripe:pi_1")
    await shop.service.receipts.issue()
    receipt = (await browser.get("/v1/receipts/VN-2027-000001")).text
    assert ("12.00 USD" in receipt, "100,000 VND" in receipt, "Exchange rate" in receipt) == (True, True, False)
    page = (await browser.get(f"/orders/{order.page_token}")).text
    assert ("12.00 USD" in page, "100,000 VND" in page, "300,000" in page) == (True, True, False)
    async with transaction(shop.service.pool) as connection:
        [entry] = await load_history(connection, "vn", "acme", 2**63 - 1, 10)
    asked, settled = csv_rows(entry)
    assert [row[CSV_COLUMNS.index("rate")] for row in (asked, settled)] == ["30000", None]
    assert settled[CSV_COLUMNS.index("credit_micros")] == 100_000_000_000


async def test_webhooks_do_not_wait_for_receipts(
    shop: Shop, browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.apply(paid(await shop.order()))
    await shop.acknowledge("stripe:pi_1")
    await shop.service.receipts.issue()
    begun, go_on = threading.Event(), threading.Event()

    def write(_receipt: Receipt) -> bytes:
        begun.set()
        assert go_on.wait(30)
        return b"%PDF-"

    monkeypatch.setattr("services.payment.api_pages.write_pdf", write)
    document = asyncio.create_task(browser.get("/v1/receipts/VN-2027-000001.pdf"))
    await asyncio.to_thread(begun.wait, 30)
    assert (await browser.get("/healthz")).status_code == 200
    go_on.set()
    assert (await document).content == b"%PDF-"
