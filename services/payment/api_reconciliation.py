"""HTTP of reconciliation: ask now, and see every difference."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from services.payment.app.reconcile import Reconciler
from shared.clock import DAY_US, Clock
from shared.events.cloudevents import RegionName, TenantId


class ReconciliationBody(BaseModel):
    """Every unsettled order, and all of the last `days`; of one region or account where named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    days: Annotated[int, Field(strict=True, ge=0, le=400)] = 7
    region: RegionName | None = None
    tenant_id: TenantId | None = None


class ReconciliationApi:
    def __init__(self, clock: Clock, reconciler: Reconciler) -> None:
        self._clock = clock
        self._reconciler = reconciler
        self.router = APIRouter(prefix="/v1", tags=["operators"])
        self.router.add_api_route("/reconciliations", self.reconcile, methods=["POST"])

    async def reconcile(self, body: ReconciliationBody) -> dict[str, Any]:
        """Ask providers and balance now. A difference that is `healed` was one; the others want somebody's look."""
        since_us = self._clock.now_us() - body.days * DAY_US
        asked, differences = await self._reconciler.reconcile_all(since_us, body.region, body.tenant_id)
        return {
            "asked": asked,
            "differences": [
                {"order_id": item.order_id, "kind": item.kind, "detail": item.detail} for item in differences
            ],
        }
