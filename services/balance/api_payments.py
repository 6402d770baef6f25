"""HTTP for payment: orders before they are paid, and what was posted for a payment."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from services.balance.app.orders import Orders, Registration
from services.balance.store.accounts import load_account
from services.balance.store.orders import list_pending_orders
from services.balance.store.payments import load_payment_facts
from shared.clock import format_instant
from shared.cursors import After, Cursors
from shared.db import Pool, transaction
from shared.errors import Refusal
from shared.events.cloudevents import Identifier, Instant, RegionName, TenantId
from shared.events.payments import Positive, Provider

_PENDING = Cursors("pending-orders", ("",))


class OrderBody(BaseModel):
    """`credit_micros` is what a payment of the order will credit, in the account's currency."""

    model_config = ConfigDict(extra="forbid")

    provider: Provider
    credit_micros: Positive
    expires_at: Instant
    attempted: Annotated[bool, Field(strict=True)] = False


class PaymentsApi:
    """The routes and what they need."""

    def __init__(self, pool: Pool, orders: Orders) -> None:
        self._pool = pool
        self._orders = orders
        self.router = APIRouter(prefix="/v1", tags=["payments"])
        account = "/accounts/{region}/{tenant_id}"
        self.router.add_api_route(f"{account}/orders/{{order_id}}", self.register, methods=["PUT"])
        self.router.add_api_route(f"{account}/payments/{{payment_id}}", self.payment, methods=["GET"])
        self.router.add_api_route("/pending-orders", self.pending, methods=["GET"])

    async def register(
        self, region: RegionName, tenant_id: TenantId, order_id: Identifier, body: OrderBody, response: Response
    ) -> dict[str, Any]:
        """Announce an order before anybody can pay it: voids deletion permits. A repeat answers the same."""
        asked = Registration(order_id, body.provider, body.credit_micros, body.expires_at, body.attempted)
        order, is_new = await self._orders.register(region, tenant_id, asked)
        response.status_code = 201 if is_new else 200
        return {
            "order_id": order.order_id,
            "registered_at": format_instant(order.registered_at_us),
            "attempted": order.attempted or body.attempted,
            "ended_at": None if order.ended_at_us is None else format_instant(order.ended_at_us),
        }

    async def pending(self, after: After = None, limit: Annotated[int, Query(ge=1, le=1000)] = 500) -> dict[str, Any]:
        """A page of every account's pending orders by id: payment looks for those that it does not know."""
        (order_id,) = _PENDING.read(after)
        async with transaction(self._pool) as connection:
            found = await list_pending_orders(connection, order_id, limit)
        last = (found[-1]["order_id"],) if len(found) == limit else None
        return {"orders": found, "next": _PENDING.write(last)}

    async def payment(self, region: RegionName, tenant_id: TenantId, payment_id: Identifier) -> dict[str, Any]:
        """What was posted for a payment: its credit and what reversed it. 404 before it is credited."""
        async with transaction(self._pool) as connection:
            account = await load_account(connection, region, tenant_id)
            facts = [] if account is None else await load_payment_facts(connection, account.account_id, payment_id)
        if not facts:
            raise Refusal("payment-not-found", f"nothing was posted for payment {payment_id}", status=404)
        return {
            "payment_id": payment_id,
            "net_micros": sum(fact.amount_micros for fact in facts),
            "facts": [
                {
                    "fact_id": fact.fact_id,
                    "amount_micros": fact.amount_micros,
                    "entry_number": fact.entry_number,
                    "posted_at": format_instant(fact.posted_at_us),
                }
                for fact in facts
            ],
        }
