"""A provider that the test plays, and a balance that takes registrations."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from services.payment.providers import (
    AskedOrder,
    NeedsCustomer,
    Page,
    PageOrder,
    ProviderName,
    ProviderRefusal,
    RefundOrder,
    SavedCharge,
)
from services.payment.rules.facts import Fact, Refunded
from shared.clock import HOUR_US
from shared.errors import TransientFault
from shared.http import problem


@dataclass
class FakeProvider:
    """`down`: out of reach; `refuses`: every question is refused for good. Refunds are idempotent by request id."""

    name: ProviderName
    down: bool = False
    refuses: bool = False
    opened: list[PageOrder] = field(default_factory=list)
    refunds: dict[str, RefundOrder] = field(default_factory=dict)
    answers: dict[str, Fact] = field(default_factory=dict)
    events: list[tuple[int, bytes]] = field(default_factory=list)
    expired: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def _check(self) -> None:
        if self.down:
            raise TransientFault(f"{self.name} is out of reach")
        if self.refuses:
            raise ProviderRefusal("provider-says-no", "the fake refuses")

    async def open_page(self, order: PageOrder) -> Page:
        self._check()
        self.opened.append(order)
        return Page(f"https://{self.name}.test/{order.order_id}", f"page_{order.order_id}")

    async def look_up(self, order: AskedOrder) -> Sequence[Fact]:
        self._check()
        return [self.answers[order.order_id]] if order.order_id in self.answers else []

    async def refund(self, refund: RefundOrder) -> Fact:
        self._check()
        self.refunds.setdefault(refund.request_id, refund)
        if refund.request_id in self.answers:
            return self.answers[refund.request_id]
        return Refunded(refund.payment_id, f"{self.name}:re_{refund.request_id}", refund.money, "pending")

    async def find_refund(self, refund: RefundOrder) -> Fact | None:
        self._check()
        self.asked.append(refund.request_id)
        return await self.refund(refund) if refund.request_id in self.refunds else None

    async def find_charge(self, charge: SavedCharge, since_us: int) -> Fact | NeedsCustomer | None:
        """No charge of a saved card ever happened here."""
        self._check()
        self.asked.append(f"{charge.request_id} since {since_us}")
        return None

    def remembers(self, sent_at_us: int, now_us: int) -> bool:
        return now_us - sent_at_us < 23 * HOUR_US

    async def charge_saved(self, charge: SavedCharge) -> Fact | NeedsCustomer:
        self._check()
        return NeedsCustomer(charge.order_id, "pi_1", "authentication_required")

    async def expire(self, order: AskedOrder) -> None:
        self._check()
        self.expired.append(order.order_id)

    async def list_events(self, since_us: int) -> AsyncIterator[bytes]:
        self._check()
        for at_us, body in self.events:
            if at_us >= since_us:
                yield body

    async def close(self) -> None:
        self.down = True


class FakeBalance:
    """Takes registrations of orders; `down` makes every question fail, `refuses` answers 409.

    Over the orders in `fails_over` it answers `fails_with`.
    """

    def __init__(self) -> None:
        self.down = False
        self.refuses = False
        self.fails_over: set[str] = set()
        self.fails_with = 500
        self.registered: dict[str, dict[str, Any]] = {}
        self.api = FastAPI()
        self.posted: dict[str, dict[str, Any]] = {}
        self.balance_micros = 0
        self.working_out = False
        self.api.get("/v1/accounts/{region}/{tenant_id}/payments/{payment_id}", response_model=None)(self.payment)
        self.api.get("/v1/accounts/{region}/{tenant_id}", response_model=None)(self.account)
        self.api.put("/v1/accounts/{region}/{tenant_id}/orders/{order_id}", response_model=None)(self.register)

    def post(self, payment_id: str, amount_micros: int, at: str = "2027-01-15T08:00:00Z") -> None:
        """Let the ledger have a payment's credit."""
        fact = {"fact_id": f"captured/{payment_id}", "amount_micros": amount_micros, "entry_number": 1, "posted_at": at}
        self.posted[payment_id] = {"payment_id": payment_id, "net_micros": amount_micros, "facts": [fact]}

    def payment(self, payment_id: str) -> JSONResponse:
        if self.down:
            return JSONResponse({}, status_code=503)
        if payment_id not in self.posted:
            return problem(404, "payment-not-found", "not posted")
        return JSONResponse(self.posted[payment_id])

    def account(self) -> JSONResponse:
        body = {"balance_micros": self.balance_micros, "working_out": self.working_out}
        return JSONResponse(body, status_code=503 if self.down else 200)

    def register(self, region: str, tenant_id: str, order_id: str, body: dict[str, Any]) -> JSONResponse:
        if self.down:
            return JSONResponse({}, status_code=503)
        if order_id in self.fails_over:
            return problem(self.fails_with, "internal", "the fake fails over this order")
        if self.refuses:
            return problem(409, "no", "the fake refuses")
        known = order_id in self.registered
        self.registered[order_id] = {"region": region, "tenant_id": tenant_id, **body}
        return JSONResponse({}, status_code=200 if known else 201)
