"""`python -m deploy.local.shop serve`: the local stack's shop. It asks payment and balance as a customer would."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import httpx
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from deploy.local.settings import read_port
from shared.clock import SystemClock
from shared.http import serve as serve_http
from shared.ids import fact_id
from shared.log import configure_logging
from shared.money import format_micros
from shared.supervisor import Supervisor

DEFAULT_PORT = 8092
_HOST = "127.0.0.1"
_ACCOUNTS_MAX = 50
_FIELDS = ("region", "tenant_id", "amount", "currency", "provider", "email", "key")
Page = Callable[[Request], Awaitable[Response]]
_PAGES = Environment(loader=PackageLoader("deploy.local.shop", "templates"), autoescape=True, undefined=StrictUndefined)


class Shop:
    """`regions` are currencies by region."""

    def __init__(self, payment: httpx.AsyncClient, balance: httpx.AsyncClient, regions: dict[str, str]) -> None:
        self._payment = payment
        self._balance = balance
        self._regions = regions
        self._visits = 0
        self._clock = SystemClock()
        self.routes = [
            Route("/", _patiently(self.index), methods=["GET"]),
            Route("/buy", _patiently(self.buy), methods=["POST"]),
            Route("/readyz", self.readyz, methods=["GET"]),
        ]

    async def readyz(self, _request: Request) -> Response:
        return JSONResponse({"status": "ready"})

    async def index(self, _request: Request) -> Response:
        return await self._show({})

    async def buy(self, request: Request) -> Response:
        """Order, and send the customer to the provider's page; another currency is quoted first."""
        fields = dict(parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True))
        form = {name: fields.get(name, "").strip() for name in _FIELDS}
        form["currency"] = form["currency"].upper()
        quote_id = fields.get("quote_id")
        if form["currency"] != self._regions.get(form["region"]) and quote_id is None:
            body = {name: form[name] for name in ("region", "amount", "currency")}
            answer = await self._payment.post("/v1/quotes", json=body)
            if not answer.is_success:
                return await self._show(form, refused=_reason(answer))
            quote = answer.json()
            return await self._show(form, quote=quote | {"credit": format_micros(quote["credit_micros"])})
        body = {name: form[name] for name in _FIELDS if name != "key"} | ({"quote_id": quote_id} if quote_id else {})
        # The page's own key: a form that is sent twice is one order.
        answer = await self._payment.post("/v1/top-ups", json=body, headers={"Idempotency-Key": f"shop-{form['key']}"})
        if not answer.is_success:
            return await self._show(form, refused=_reason(answer))
        return RedirectResponse(answer.json()["page_url"], 303)

    async def _show(self, form: dict[str, str], *, refused: str = "", quote: dict[str, Any] | None = None) -> Response:
        answer = await self._balance.get(
            "/v1/accounts", params={"limit": _ACCOUNTS_MAX, "balance_at_most_micros": 2**63 - 1}
        )
        accounts = answer.raise_for_status().json()["accounts"]
        self._visits += 1
        page = _PAGES.get_template("shop.html").render(
            regions=sorted(self._regions, reverse=True),
            accounts=[account | {"balance": format_micros(account["balance_micros"])} for account in accounts],
            form={name: form.get(name, "") for name in _FIELDS},
            key=fact_id("shop", os.getpid(), self._clock.now_us(), self._visits),
            refused=refused,
            quote=quote,
        )
        return HTMLResponse(page, status_code=422 if refused else 200)


def _patiently(page: Page) -> Page:
    """A page that says so where payment or balance can't be reached: they may be starting again."""

    async def show(request: Request) -> Response:
        try:
            return await page(request)
        except (httpx.TransportError, httpx.HTTPStatusError):
            return HTMLResponse(
                _PAGES.get_template("away.html").render(), status_code=503, headers={"retry-after": "2"}
            )

    return show


def _reason(answer: httpx.Response) -> str:
    body = answer.json()
    errors = "".join(f" {item['where']}: {item['what']}." for item in body.get("errors", []))
    return f"{body.get('detail', answer.reason_phrase)}.{errors}"


async def serve() -> None:
    regions = {name: region["currency"] for name, region in json.loads(os.environ["TOLLKEEPER_REGIONS"]).items()}
    port = read_port(os.environ, "TOLLKEEPER_SHOP_PORT", DEFAULT_PORT)
    async with (
        httpx.AsyncClient(base_url=os.environ["TOLLKEEPER_PAYMENT_URL"], timeout=30, trust_env=False) as payment,
        httpx.AsyncClient(base_url=os.environ["TOLLKEEPER_BALANCE_URL"], timeout=10, trust_env=False) as balance,
    ):
        app = Starlette(routes=Shop(payment, balance, regions).routes)
        await Supervisor({"http": lambda: serve_http(app, _HOST, port)}).run()


if __name__ == "__main__":
    if sys.argv[1:] != ["serve"]:
        raise SystemExit("usage: python -m deploy.local.shop serve")
    configure_logging("shop")
    asyncio.run(serve())
