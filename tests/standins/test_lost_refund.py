"""VNPay's stand-in and our port to it, in one process: a refund whose answer was lost is asked for again."""

from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from deploy.local.providers.courier import Courier
from deploy.local.providers.outage import Outage
from deploy.local.providers.store import Callback, Store
from deploy.local.providers.vnpay.api import Merchant, VnpayApi
from services.payment.providers import AskedOrder, PageOrder, RefundOrder
from services.payment.providers.vnpay import VnpayKeys, VnpayProvider
from services.payment.rules.facts import Attempted, Money, Paid, Refunded
from shared.clock import HOUR_US, FixedClock, parse_instant
from shared.errors import TransientFault
from shared.ids import fact_id

NOW_US = parse_instant("2026-11-24T08:00:00Z")
ORDER_ID = fact_id("order", "vn", "acme", "key-1")
DONG = Money(100_000_000_000, "VND")
PART = Money(30_000_000_000, "VND")


class LossyTransport(httpx.ASGITransport):
    """Carries every request; loses the next answer when told."""

    lose = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await super().handle_async_request(request)
        if self.lose:
            self.lose = False
            raise httpx.ReadTimeout("the answer was lost", request=request)
        return answer


async def deliver_nothing(_client: httpx.AsyncClient, _callback: Callback) -> str | None:
    return None


async def test_a_lost_answer_to_a_refund_makes_no_second_refund(tmp_path: Path) -> None:
    clock, store = FixedClock(NOW_US), Store(tmp_path / "vnpay.sqlite")
    courier = Courier(store, clock, deliver_nothing, Outage(), pauses=[])
    api = VnpayApi(store, clock, Merchant("DEMOV210", "secret"), courier)
    transport = LossyTransport(app=Starlette(routes=api.routes))
    client = httpx.AsyncClient(transport=transport, base_url="http://vnpay")
    provider = VnpayProvider(
        VnpayKeys("DEMOV210", ("secret",)),
        clock,
        client,
        pay_url="http://vnpay/paymentv2/vpcpay.html",
        api_url="http://vnpay/merchant_webapi/api/transaction",
    )
    page = await provider.open_page(
        PageOrder(ORDER_ID, "vn", "acme", DONG, NOW_US, NOW_US + HOUR_US, "http://pay.test", "a1b2", "203.0.113.9")
    )
    assert (await client.get(page.url)).is_success
    await client.post(f"/paymentv2/pay/{page.reference}", data={"code": "00"})
    asked = AskedOrder(ORDER_ID, "vn", "acme", DONG, NOW_US, page.reference)
    [paid] = await provider.look_up(asked)
    assert isinstance(paid, Paid)

    refund = RefundOrder("5f" * 16, "vn", ORDER_ID, paid.payment_id, PART, DONG, NOW_US, NOW_US, "kim")
    transport.lose = True
    with pytest.raises(TransientFault):
        await provider.refund(refund)
    pending = Refunded(paid.payment_id, f"vnpay:{refund.request_id}", PART, "pending")
    assert await provider.refund(refund) == pending
    [payment] = (await client.get("/_control/truth")).json()["payments"]
    assert len(payment["refunds"]) == 1
    # What querydr says of a refund is no news of the payment.
    assert await provider.look_up(asked) == [Attempted(ORDER_ID, "vnpay-refund-05")]
    await provider.close()
    store.close()
