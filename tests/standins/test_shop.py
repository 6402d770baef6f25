"""The shop while what it asks is out of reach."""

from collections.abc import Callable

import httpx
import pytest
from starlette.applications import Starlette

from deploy.local.shop.__main__ import Shop


def out_of_reach(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def failing(_request: httpx.Request) -> httpx.Response:
    return httpx.Response(503)


@pytest.mark.parametrize("answer", [out_of_reach, failing])
async def test_a_customer_is_asked_to_wait(answer: Callable[[httpx.Request], httpx.Response]) -> None:
    services = httpx.AsyncClient(base_url="http://services", transport=httpx.MockTransport(answer))
    app = Starlette(routes=Shop(services, services, {"vn": "VND"}).routes)
    async with services, httpx.AsyncClient(base_url="http://shop", transport=httpx.ASGITransport(app)) as customer:
        page = await customer.get("/")
        assert (page.status_code, page.headers["retry-after"]) == (503, "2")
        assert "goes back to the shop by itself" in page.text
