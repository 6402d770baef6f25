"""Where providers call. They get exactly the answers that they understand (their documentation; shared/facts)."""

from collections.abc import Callable

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from services.payment.app.inbox import Inbox, Received
from services.payment.metrics import WEBHOOKS
from services.payment.providers import BadSignature, Notice, Unreadable
from shared.clock import Clock
from shared.db import TRANSIENT
from shared.errors import TransientFault
from shared.http import problem
from shared.log import get_logger

logger = get_logger(__name__)

# VNPay's answers to an IPN, in its own spelling.
CONFIRMED = ("00", "Confirm Success")
NOT_FOUND = ("01", "Order not found")
ALREADY_CONFIRMED = ("02", "Order already confirmed")
INVALID_AMOUNT = ("04", "invalid amount")
INVALID_SIGNATURE = ("97", "Invalid signature")
UNKNOWN_ERROR = ("99", "Unknow error")


# Verify and read: a webhook's body with its signature at an instant; an IPN's query.
ReadStripe = Callable[[bytes, str, int], Notice]
ReadVnpay = Callable[[str], Notice]


class WebhookApi:
    def __init__(self, clock: Clock, inbox: Inbox, read_stripe: ReadStripe, read_vnpay: ReadVnpay) -> None:
        self._clock = clock
        self._inbox = inbox
        self._read_stripe = read_stripe
        self._read_vnpay = read_vnpay
        self.router = APIRouter(prefix="/webhooks", tags=["webhooks"])
        add = self.router.add_api_route
        add("/stripe", self.stripe, methods=["POST"])
        add("/vnpay", self.vnpay, methods=["GET"])

    async def stripe(self, request: Request) -> JSONResponse:
        """A Stripe event, signed over its raw body. 5xx asks Stripe to send it again."""
        body = await request.body()
        try:
            notice = self._read_stripe(body, request.headers.get("stripe-signature", ""), self._clock.now_us())
        except BadSignature:
            WEBHOOKS.labels("stripe", "bad signature").inc()
            raise
        received = await self._inbox.receive("stripe", notice, body)
        if not received.completed:
            return problem(503, "order-not-known-yet", "the event names an order that is not known yet; send it again")
        return JSONResponse({"received": True, "outcome": received.outcome})

    async def vnpay(self, request: Request) -> JSONResponse:
        """VNPay's IPN: always HTTP 200; the code says whether it is to be sent again."""
        query = request.url.query
        try:
            notice = self._read_vnpay(query)
        except BadSignature:
            WEBHOOKS.labels("vnpay", "bad signature").inc()
            return _answer(INVALID_SIGNATURE)
        except Unreadable as error:
            logger.warning("ipn.unreadable", detail=error.detail)
            return _answer(UNKNOWN_ERROR)
        if notice.order_id is None:
            return _answer(NOT_FOUND)
        try:
            received = await self._inbox.receive("vnpay", notice, query.encode())
        except (*TRANSIENT, TransientFault) as error:
            logger.warning("ipn.fault", error=repr(error)[:500])
            return _answer(UNKNOWN_ERROR)
        return _answer(vnpay_answer(received))


def vnpay_answer(received: Received) -> tuple[str, str]:
    """VNPay's code for what became of an IPN: "02" only where this very result was applied before."""
    if received.outcome == "unknown":
        return NOT_FOUND
    if received.outcome == "mismatched":
        return INVALID_AMOUNT
    if received.repeated or received.outcome == "repeated":
        return ALREADY_CONFIRMED
    return CONFIRMED


def _answer(answer: tuple[str, str]) -> JSONResponse:
    return JSONResponse({"RspCode": answer[0], "Message": answer[1]})
