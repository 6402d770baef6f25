"""Payment's HTTP for customers: top-ups, quotes, their history."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from services.payment.api_bodies import (
    IdempotencyKey,
    QuoteBody,
    TopUpBody,
    describe_entry,
    describe_order,
    describe_quote,
)
from services.payment.app.rates import Rates
from services.payment.app.topups import TopUpRequest, TopUps
from services.payment.rules.conversion import parse_amount
from services.payment.store.history import HistoryEntry, load_history
from services.payment.store.status import load_status
from shared.clock import format_instant
from shared.csv_text import BYTE_ORDER_MARK, format_csv
from shared.cursors import After, Cursors
from shared.db import transaction
from shared.events.cloudevents import Identifier, RegionName, TenantId

PAGE_MAX = 500
_HISTORY = Cursors("payments", (2**63 - 1,))

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
ByteOrderMark = Annotated[bool, Query(description="Begin with a byte order mark, by which Excel knows UTF-8.")]

CSV_COLUMNS = (
    "order_id",
    "state",
    "created_at",
    "kind",
    "id",
    "provider",
    "reference",
    "at",
    "status",
    "amount",
    "currency",
    "credit_micros",
    "account_currency",
    "rate",
    "rate_date",
)
# Decimal numbers as text.
_FIGURES = frozenset({CSV_COLUMNS.index("amount"), CSV_COLUMNS.index("rate")})


class PaymentApi:
    """The routes and what they need."""

    def __init__(self, rates: Rates, topups: TopUps) -> None:
        self._rates = rates
        self._topups = topups
        self.router = APIRouter(prefix="/v1", tags=["payment"])
        add = self.router.add_api_route
        add("/status", self.status, methods=["GET"])
        add("/top-ups", self.create, methods=["POST"], status_code=201)
        add("/top-ups/{order_id}", self.order, methods=["GET"])
        add("/quotes", self.quote, methods=["POST"], status_code=201)
        add("/accounts/{region}/{tenant_id}/payments", self.history, methods=["GET"])
        add("/accounts/{region}/{tenant_id}/payments.csv", self.history_csv, methods=["GET"])

    async def status(self) -> dict[str, Any]:
        """Where orders, consuming and publishing stand."""
        async with transaction(self._rates.pool) as connection:
            status = await load_status(connection)
        return {"now": format_instant(self._rates.clock.now_us()), **status}

    async def create(self, body: TopUpBody, idempotency_key: IdempotencyKey, request: Request) -> dict[str, Any]:
        """Order credits; the customer pays at `page_url`. Repeat with the same key whatever the answer was."""
        wish = TopUpRequest(
            region=body.region,
            tenant_id=body.tenant_id,
            amount=body.amount,
            currency=body.currency,
            provider=body.provider,
            idempotency_key=idempotency_key,
            quote_id=body.quote_id,
            email=body.email,
            payer_name=body.name,
            locale=body.locale,
            bank_code=body.bank_code,
            save_card=body.save_card,
            payer_ip=request.client.host if request.client else "127.0.0.1",
        )
        return describe_order(await self._topups.create_for_customer(wish), self._rates.settings.public_url)

    async def order(self, order_id: Identifier) -> dict[str, Any]:
        return describe_order(await self._topups.load(order_id), self._rates.settings.public_url)

    async def quote(self, body: QuoteBody) -> dict[str, Any]:
        """What an amount of another currency buys, for a limited time."""
        return describe_quote(await self._rates.quote(body.region, parse_amount(body.amount, body.currency)))

    async def history(
        self, region: RegionName, tenant_id: TenantId, after: After = None, limit: Limit = 50
    ) -> dict[str, Any]:
        """A page of the account's Payment History, newest first."""
        (number,) = _HISTORY.read(after, region, tenant_id)
        async with transaction(self._rates.pool) as connection:
            entries = await load_history(connection, region, tenant_id, number, limit)
        last = (entries[-1].number,) if len(entries) == limit else None
        return {
            "payments": [describe_entry(entry) for entry in entries],
            "next": _HISTORY.write(last, region, tenant_id),
        }

    async def history_csv(self, region: RegionName, tenant_id: TenantId, *, bom: ByteOrderMark = False) -> Response:
        """The whole Payment History: a line per order, payment, refund and dispute, newest order first."""
        name = f"payments-{region}-{tenant_id}.csv"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(self._write_csv(region, tenant_id, bom=bom), media_type="text/csv", headers=headers)

    async def _write_csv(self, region: str, tenant_id: str, *, bom: bool) -> AsyncIterator[bytes]:
        yield (BYTE_ORDER_MARK if bom else b"") + format_csv([CSV_COLUMNS])
        (before,) = _HISTORY.first
        while True:
            async with transaction(self._rates.pool) as connection:
                entries = await load_history(connection, region, tenant_id, before, PAGE_MAX)
            if entries:
                yield format_csv((row for entry in entries for row in csv_rows(entry)), _FIGURES)
            if len(entries) < PAGE_MAX:
                return
            before = entries[-1].number


def csv_rows(entry: HistoryEntry) -> list[tuple[object, ...]]:
    """The lines of one entry; empty where a column says nothing of a kind."""
    described = describe_entry(entry)
    head = (described["order_id"], described["state"], described.get("created_at"))
    names = ("account_currency", "rate", "rate_date")
    terms = tuple(described.get(name) for name in ("credit_micros", *names))
    rows: list[tuple[object, ...]] = []
    if entry.order is not None:
        asked = (described["provider"], None, described["created_at"], described["state"])
        rows.append((*head, "order", described["order_id"], *asked, described["amount"], described["currency"], *terms))
    for payment in described["payments"]:
        status = "credited" if payment["credited_at"] else "captured"
        who = (payment["provider"], payment["reference"])
        paid = (payment["paid_at"], status, payment["amount"], payment["currency"], payment["credit_micros"])
        settled = tuple(payment[name] for name in names)
        rows.append((*head, "payment", payment["payment_id"], *who, *paid, *settled))
        for refund in payment["refunds"]:
            moved = (refund["at"], refund["state"], refund["amount"], payment["currency"])
            rows.append((*head, "refund", refund["refund_id"], *who, *moved, None, *settled))
        for dispute in payment["disputes"]:
            moved = (dispute["at"], dispute["outcome"], dispute["amount"], payment["currency"])
            rows.append((*head, "dispute", dispute["dispute_id"], *who, *moved, None, *settled))
    return rows
