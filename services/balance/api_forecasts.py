"""HTTP of forecasts: how long a balance lasts, and what more it needs."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from services.balance.app.forecasts import Forecast, Forecasts
from services.balance.rules.admission import Need
from shared.clock import SECOND_US, format_instant
from shared.events.account import AccountState
from shared.events.cloudevents import Instant, RegionName, Sku, TenantId
from shared.events.lifecycle import GPU_COUNT_MAX, STORAGE_GB_MAX


class ForecastAnswer(BaseModel):
    """When the next states begin at a steady burn; null: never. `deleted_at` is the earliest.

    `low_at`: less than an hour is left. `top_up_micros`: the smallest with which it lasts until the instant asked for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    burn_micros_per_hour: int
    lasts_seconds: int | None
    low_at: str | None
    stopped_at: str | None
    deleted_at: str | None
    top_up_micros: int | None


class AccountForecastAnswer(BaseModel):
    """An account's forecast as things run now, and with what was asked about."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    region: str
    tenant_id: str
    currency: str
    at: str
    state: AccountState
    spendable_micros: int
    forecast: ForecastAnswer
    with_more: ForecastAnswer | None


class ForecastsApi:
    """The routes and what they need."""

    def __init__(self, forecasts: Forecasts) -> None:
        self._forecasts = forecasts
        self.router = APIRouter(prefix="/v1", tags=["forecast"])
        self.router.add_api_route("/accounts/{region}/{tenant_id}/forecast", self.show, methods=["GET"])

    async def show(
        self,
        region: RegionName,
        tenant_id: TenantId,
        until: Instant | None = None,
        gpu_sku: Sku | None = None,
        gpu_count: Annotated[int, Query(ge=1, le=GPU_COUNT_MAX)] = 1,
        storage_gb: Annotated[int, Query(ge=0, le=STORAGE_GB_MAX)] = 0,
    ) -> AccountForecastAnswer:
        """How long the balance lasts; with `gpu_sku` or `storage_gb` also what it would with that running too."""
        need = Need(gpu_sku, 0 if gpu_sku is None else gpu_count, storage_gb)
        more = need if need.quantities() else None
        account, present, with_more, now_us = await self._forecasts.load(region, tenant_id, more, until)
        return AccountForecastAnswer(
            region=region,
            tenant_id=tenant_id,
            currency=account.currency,
            at=format_instant(now_us),
            state=account.standing.state,
            spendable_micros=account.standing.spendable_micros,
            forecast=_describe(present, now_us),
            with_more=None if with_more is None else _describe(with_more, now_us),
        )


def _describe(forecast: Forecast, now_us: int) -> ForecastAnswer:
    stopped_us = forecast.stopped_at_us
    return ForecastAnswer(
        burn_micros_per_hour=forecast.burn_micros_per_hour,
        lasts_seconds=None if stopped_us is None else (stopped_us - now_us) // SECOND_US,
        low_at=_instant(forecast.low_at_us),
        stopped_at=_instant(stopped_us),
        deleted_at=_instant(forecast.deleted_at_us),
        top_up_micros=forecast.top_up_micros,
    )


def _instant(at_us: int | None) -> str | None:
    """An instant; null also for one so far ahead that no calendar has it."""
    return None if at_us is None or at_us > _LAST_US else format_instant(at_us)


# The end of the year 9999.
_LAST_US = 253_402_300_799_000_000
