"""Payment's HTTP for operators: exchange rates, the queue, refunds, callbacks that could not be applied."""

from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Query

from services.payment.api_bodies import (
    IdempotencyKey,
    RateBody,
    RefundBody,
    SettlementBody,
    WithdrawalBody,
    describe_item,
    describe_kept,
    describe_refund_request,
)
from services.payment.app.inbox import Inbox
from services.payment.app.rates import Rates
from services.payment.app.refunds import Refunds, RefundWish, Withdrawal
from services.payment.app.settlement import Settlement, SettlementWish
from services.payment.rules.conversion import Rate, format_rate, parse_rate
from services.payment.store.inbox import load_problems
from services.payment.store.queue import load_items
from services.payment.store.rates import load_rates
from shared.clock import format_instant
from shared.cursors import After, Cursors
from shared.db import transaction
from shared.errors import Refusal
from shared.events.cloudevents import Identifier
from shared.events.payments import Provider
from shared.operators import OperatorWord

PAGE_MAX = 500
_ITEMS = Cursors("operator-items", (0,))
_REFUNDS = Cursors("refunds", (0, ""), instants=(0,))
_KEPT_EVENTS = Cursors("events", ("", ""))

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]


class OperatorApi:
    def __init__(self, rates: Rates, settlement: Settlement, refunds: Refunds, inbox: Inbox) -> None:
        self._inbox = inbox
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
        add("/refunds", self.open_refunds, methods=["GET"])
        add("/refunds/{request_id}/withdraw", self.withdraw_refund, methods=["POST"])
        add("/inbox", self.kept_events, methods=["GET"])
        add("/inbox/{provider}/{event_id}/apply", self.apply_event, methods=["POST"])
        add("/inbox/{provider}/{event_id}/dismiss", self.dismiss_event, methods=["POST"])

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
        after: After = None,
        limit: Limit = 100,
        *,
        settled: bool = False,
    ) -> dict[str, Any]:
        """What waits for an operator, oldest first; with `settled` what was decided."""
        (number,) = _ITEMS.read(after)
        async with transaction(self._rates.pool) as connection:
            items = await load_items(connection, number, limit, settled=settled)
        last = (items[-1].item_number,) if len(items) == limit else None
        return {"items": [describe_item(item) for item in items], "next": _ITEMS.write(last)}

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

    async def open_refunds(self, after: After = None, limit: Limit = 100) -> dict[str, Any]:
        """Refunds that were asked for and have no answer, oldest first."""
        requests = await self._refunds.list_open(_REFUNDS.read(after), limit)
        last = requests[-1].cursor if len(requests) == limit else None
        return {
            "refunds": [describe_refund_request(request) for request in requests],
            "next": _REFUNDS.write(last),
        }

    async def withdraw_refund(self, request_id: Identifier, body: WithdrawalBody) -> dict[str, Any]:
        """Take a refund request back. One that was sent is asked about first, and refused if it happened."""
        word = Withdrawal(body.actor, body.reason, body.checked)
        return describe_refund_request(await self._refunds.withdraw(request_id, word))

    async def kept_events(self, after: After = None, limit: Limit = 100) -> dict[str, Any]:
        """Callbacks that could not be read or applied, each with its reason."""
        async with transaction(self._rates.pool) as connection:
            events = await load_problems(connection, _KEPT_EVENTS.read(after), limit)
        last = events[-1].key if len(events) == limit else None
        return {"events": [describe_kept(event) for event in events], "next": _KEPT_EVENTS.write(last)}

    async def apply_event(self, provider: Provider, event_id: Identifier, body: OperatorWord) -> dict[str, str]:
        """Try a kept callback again now."""
        await self._inbox.apply_kept((provider, event_id), body.actor)
        return {"provider": provider, "event_id": event_id, "status": "applied"}

    async def dismiss_event(self, provider: Provider, event_id: Identifier, body: OperatorWord) -> dict[str, str]:
        """Let a kept callback rest: it is tried no more."""
        await self._inbox.dismiss((provider, event_id), body.actor, body.reason)
        return {"provider": provider, "event_id": event_id, "status": "dismissed"}
