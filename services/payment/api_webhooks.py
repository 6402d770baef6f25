"""Where providers call. They get exactly the answers that they understand (their documentation; shared/facts)."""

from collections.abc import Callable

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from services.payment.app.inbox import PROBLEMS, Inbox, Received
from services.payment.metrics import WEBHOOKS
from services.payment.providers import BadSignature, Notice
from shared.clock import Clock
from shared.http import problem
from shared.log import get_logger
from shared.set_aside import describe_error

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
        """A Stripe event, signed over its raw body. 5xx asks Stripe to send it again.

        What can't be read or applied is kept, so Stripe need not send it again.
        """
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
        """VNPay's IPN: always HTTP 200, whatever happens; the code says whether it is to be sent again."""
        try:
            return _answer(await self._take_ipn(request.url.query))
        except Exception as error:
            logger.exception("ipn.fault", error=describe_error(error))
            return _answer(UNKNOWN_ERROR)

    async def _take_ipn(self, query: str) -> tuple[str, str]:
        try:
            notice = self._read_vnpay(query)
        except BadSignature:
            WEBHOOKS.labels("vnpay", "bad signature").inc()
            return INVALID_SIGNATURE
        if notice.problem is None and notice.order_id is None:
            WEBHOOKS.labels("vnpay", "unknown").inc()
            return NOT_FOUND
        return vnpay_answer(await self._inbox.receive("vnpay", notice, query.encode()))


def vnpay_answer(received: Received) -> tuple[str, str]:
    """VNPay's code for what became of an IPN: "02" only where this very result was applied before."""
    if received.outcome in PROBLEMS:
        return UNKNOWN_ERROR
    if received.outcome == "unknown":
        return NOT_FOUND
    if received.outcome == "mismatched":
        return INVALID_AMOUNT
    if received.repeated or received.outcome == "repeated":
        return ALREADY_CONFIRMED
    return CONFIRMED


def _answer(answer: tuple[str, str]) -> JSONResponse:
    return JSONResponse({"RspCode": answer[0], "Message": answer[1]})
