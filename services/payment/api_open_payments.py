"""Payment's HTTP for whoever must not act against a customer while money of his is on its way."""

from typing import Any

from fastapi import APIRouter

from services.payment.app.reconcile import Reconciler
from services.payment.store.open_payments import load_open_payments
from shared.clock import Clock, format_instant
from shared.db import Pool, transaction
from shared.events.cloudevents import RegionName, TenantId

OPEN_MAX = 100


class OpenPaymentsApi:
    def __init__(self, pool: Pool, clock: Clock, reconciler: Reconciler) -> None:
        self._pool = pool
        self._clock = clock
        self._reconciler = reconciler
        self.router = APIRouter(prefix="/v1", tags=["payment"])
        self.router.add_api_route("/accounts/{region}/{tenant_id}/open-payments", self.open_payments, methods=["GET"])

    async def open_payments(self, region: RegionName, tenant_id: TenantId) -> dict[str, Any]:
        """Everything that may still become a credit, the oldest first: an empty list says that nothing may.

        Orders that nobody is known to have tried to pay are asked about first; `asked` of one says that its provider
        answered just now. What is known of one that was not answered for may be hours old.
        """
        asked = await self._reconciler.ask_untried(region, tenant_id)
        async with transaction(self._pool) as connection:
            found = await load_open_payments(connection, region, tenant_id, OPEN_MAX)
        return {
            "now": format_instant(self._clock.now_us()),
            "open_payments": [
                {
                    "kind": item.kind,
                    "id": item.item_id,
                    "state": item.state,
                    "attempted": item.attempted,
                    "asked": item.item_id in asked,
                    "since": format_instant(item.since_us),
                }
                for item in found
            ],
        }
