"""Payment's every route, asked as no honest client asks."""

import httpx
import structlog

from services.payment.api import PaymentApi
from services.payment.api_open_payments import OpenPaymentsApi
from services.payment.api_operators import OperatorApi
from shared.http import create_api
from tests.payment.shop import Shop, paid
from tests.support.hostile_requests import find_faults


async def test_no_input_is_answered_with_a_fault(shop: Shop) -> None:
    order = await shop.order()
    await shop.apply(paid(order))
    service = shop.service
    api = create_api("payment", readiness=dict)
    for part in (
        PaymentApi(service.rates, service.topups),
        OperatorApi(service.rates, service.settlement, service.refunds, service.inbox),
        OpenPaymentsApi(service.pool, shop.clock, service.reconciler),
    ):
        api.include_router(part.router)
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    with structlog.testing.capture_logs():
        async with httpx.AsyncClient(transport=transport, base_url="http://payment") as client:
            count, faults = await find_faults(client, api.openapi())
    assert not faults, "\n".join(faults)
    assert count > 300
