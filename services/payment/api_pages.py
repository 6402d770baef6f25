"""Pages for people: where a customer comes back to after paying, and receipts. They show; they decide nothing."""

import asyncio
import re
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from services.payment.app.receipts import Receipts
from services.payment.app.topups import TopUps
from services.payment.balance_client import BalanceClient
from services.payment.providers import BadSignature, Notice
from services.payment.receipts.pdf import write_pdf
from services.payment.rules.receipts import ReceiptMoney, receipt_money, receipt_rows
from services.payment.store.orders import StoredOrder
from shared.errors import Refusal, TransientFault
from shared.events.cloudevents import Identifier
from shared.log import get_logger

logger = get_logger(__name__)

# Pages are of this service alone: no script, nothing from elsewhere, and in nobody's frame.
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
REFRESH_SECONDS = 1
# PDFs that are written at once.
WRITING_MAX = 2
_TOKEN = re.compile("[0-9a-f]{32}")
WORDS = {
    "pending": ("Waiting for your payment", "We have not heard of a payment yet. This page looks again by itself."),
    "paid": ("Payment received", "Your credits are being added. This page looks again by itself."),
    "credited": ("Credits added", "Thank you. Your credits are ready to use."),
    "failed": ("Payment failed", "Nothing was credited. If money was taken after all, it is credited by itself."),
    "expired": ("Order expired", "Nothing was paid in time. If money was taken after all, it is credited by itself."),
    "mismatched": ("We are looking into it", "The payment does not match the order. A person is dealing with it."),
    "refunded": ("Refunded", "The payment was sent back."),
    "disputed": ("Disputed", "The payment is disputed with your bank."),
}
_PAGES = Environment(
    loader=PackageLoader("services.payment", "pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


class PagesApi:
    def __init__(
        self, topups: TopUps, balance: BalanceClient, receipts: Receipts, read_vnpay: Callable[[str], Notice]
    ) -> None:
        self._topups = topups
        self._balance = balance
        self._receipts = receipts
        self._read_vnpay = read_vnpay
        self._writing = asyncio.Semaphore(WRITING_MAX)
        self.router = APIRouter(tags=["pages"], default_response_class=HTMLResponse)
        add = self.router.add_api_route
        add("/return/stripe", self.return_from_stripe, methods=["GET"])
        add("/return/vnpay", self.return_from_vnpay, methods=["GET"])
        add("/orders/{token}", self.order, methods=["GET"])
        add("/v1/receipts/{number}.pdf", self.receipt_pdf, methods=["GET"], response_class=Response)
        add("/v1/receipts/{number}", self.receipt, methods=["GET"])

    async def return_from_stripe(self, order: Annotated[str, Query(max_length=100)]) -> HTMLResponse:
        return await self._show_named(order)

    async def return_from_vnpay(self, request: Request) -> HTMLResponse:
        """VNPay's return: verified, and shown only; what counts is its IPN."""
        try:
            notice = self._read_vnpay(request.url.query)
        except BadSignature:
            return _say("This link was not signed by VNPay", "Open your order from the shop instead.", status=400)
        try:
            return await self._show(await self._topups.load(notice.order_id or ""))
        except Refusal:
            return _say_unknown()

    async def order(self, token: str) -> HTMLResponse:
        """The page of the order that a random token names: who has the link may see it, and nobody can guess one."""
        return await self._show_named(token)

    async def receipt(self, number: Identifier) -> HTMLResponse:
        receipt = await self._receipts.load(number)
        page = _PAGES.get_template("receipt.html").render(receipt=receipt, rows=receipt_rows(receipt))
        return HTMLResponse(page, headers=HEADERS)

    async def receipt_pdf(self, number: Identifier) -> Response:
        receipt = await self._receipts.load(number)
        headers = {"content-disposition": f'inline; filename="{receipt.number}.pdf"'}
        # Setting type takes a while, and webhooks must not wait for it.
        async with self._writing:
            document = await asyncio.to_thread(write_pdf, receipt)
        return Response(document, media_type="application/pdf", headers=HEADERS | headers)

    async def _show_named(self, token: str) -> HTMLResponse:
        order = await self._topups.find_page(token) if _TOKEN.fullmatch(token) else None
        return _say_unknown() if order is None else await self._show(order)

    async def _show(self, order: StoredOrder) -> HTMLResponse:
        settled = await self._topups.find_settled(order)
        title, text = WORDS[order.state]
        waits = order.state in ("pending", "paid")
        page = _PAGES.get_template("order.html").render(
            title=title,
            text=text,
            order=order,
            asked=receipt_money(settled.paid.amount_micros, settled.paid.currency),
            credit=receipt_money(settled.credit_micros, order.account_currency),
            balance=await self._find_balance(order),
            refresh_seconds=REFRESH_SECONDS if waits else None,
            page_url=order.page_url if order.state == "pending" else None,
        )
        return HTMLResponse(page, headers=HEADERS)

    async def _find_balance(self, order: StoredOrder) -> ReceiptMoney | None:
        """The account's balance now; None while balance is out of reach, for the order is told all the same."""
        try:
            balance_micros = await self._balance.find_balance(order.region, order.tenant_id)
        except TransientFault as fault:
            logger.warning("page.balance_unreachable", error=str(fault)[:300])
            return None
        return None if balance_micros is None else receipt_money(balance_micros, order.account_currency)


def _say_unknown() -> HTMLResponse:
    return _say("Unknown order", "There is no such order here.", status=404)


def _say(title: str, text: str, *, status: int) -> HTMLResponse:
    page = _PAGES.get_template("message.html").render(title=title, text=text, refresh_seconds=None)
    return HTMLResponse(page, status_code=status, headers=HEADERS)
