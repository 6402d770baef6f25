"""Payment's HTTP for operators: exchange rates, the queue, refunds."""

from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Query

from services.payment.api_bodies import (
    IdempotencyKey,
    RateBody,
    RefundBody,
    SettlementBody,
    describe_item,
    describe_refund_request,
)
from services.payment.api_cursor import read_cursor, write_cursor
from services.payment.app.rates import Rates
from services.payment.app.refunds import Refunds, RefundWish
from services.payment.app.settlement import Settlement, SettlementWish
from services.payment.rules.conversion import Rate, format_rate, parse_rate
from services.payment.store.queue import load_items
from services.payment.store.rates import load_rates
from shared.clock import format_instant
from shared.db import transaction
from shared.errors import Refusal
from shared.events.cloudevents import Identifier

PAGE_MAX = 500


class OperatorApi:
    def __init__(self, rates: Rates, settlement: Settlement, refunds: Refunds) -> None:
        self._rates = rates
        self._settlement = settlement
        self._refunds = refunds
        self.router = APIRouter(prefix="/v1", tags=["operators"])
        add = self.router.add_api_route
        add("/exchange-rates", self.publish_rate, methods=["PUT"])
        add("/exchange-rates", self.list_rates, methods=["GET"])
        add("/queue", self.queue, methods=["GET"])
        add("/queue/{item_id}/settle", self.settle, methods=["POST"])
        add("/payments/{payment_id}/refunds", self.refund, methods=["POST"], status_code=201)

    async def publish_rate(self, body: RateBody) -> dict[str, str]:
        """Publish a dated rate; quotes use the latest day's, and of a day the one published last."""
        try:
            valid_on = date.fromisoformat(body.date)
        except ValueError as error:
            raise Refusal("invalid-date", f"{body.date} is no date", status=422) from error
        rate = Rate(body.from_currency, body.to_currency, parse_rate(body.rate), valid_on)
        await self._rates.publish(rate, body.actor)
        return {"from": body.from_currency, "to": body.to_currency, "rate": body.rate, "date": body.date}

    async def list_rates(self) -> dict[str, list[dict[str, Any]]]:
        async with transaction(self._rates.pool) as connection:
            rows = await load_rates(connection)
        return {
            "exchange_rates": [
                {
                    "from": row["from_currency"],
                    "to": row["to_currency"],
                    "rate": format_rate(row["rate_e12"]),
                    "date": row["valid_on"].isoformat(),
                    "actor": row["actor"],
                    "published_at": format_instant(row["published_at"]),
                }
                for row in rows
            ]
        }

    async def queue(
        self,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
        *,
        settled: bool = False,
    ) -> dict[str, Any]:
        """What waits for an operator, oldest first; with `settled` what was decided."""
        async with transaction(self._rates.pool) as connection:
            items = await load_items(connection, read_cursor(after) or 0, limit, settled=settled)
        last = items[-1].item_number if len(items) == limit else None
        return {"items": [describe_item(item) for item in items], "next": write_cursor(last)}

    async def settle(self, item_id: Identifier, body: SettlementBody) -> dict[str, Any]:
        """Credit, refund or dismiss; a credit is posted under the payment's own id."""
        wish = SettlementWish(body.action, body.reason, body.actor, body.amount_micros, body.region, body.tenant_id)
        return describe_item(await self._settlement.settle(item_id, wish))

    async def refund(
        self,
        payment_id: Identifier,
        body: RefundBody,
        idempotency_key: IdempotencyKey,
    ) -> dict[str, Any]:
        """Send money back to the payer, once per Idempotency-Key."""
        if body.full is (body.amount_micros is not None):
            raise Refusal("amount-or-full", "give either amount_micros or full", status=422)
        wish = RefundWish(payment_id, body.amount_micros, body.reason, body.actor, idempotency_key)
        return describe_refund_request(await self._refunds.refund(wish))
