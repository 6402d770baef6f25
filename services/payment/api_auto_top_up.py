"""HTTP of automatic top-up: what a customer agrees to, how it stands, its end."""

from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from services.payment.api_bodies import Actor, PositiveMicros
from services.payment.app.auto_top_up import AutoTopUps, Consent
from services.payment.rules.auto_top_up import AutoTopUp
from services.payment.store.auto_top_ups import StoredAgreement
from shared.events.cloudevents import RegionName, TenantId
from shared.events.payments import Natural


class AgreementBody(BaseModel):
    """Below `threshold_micros` the card saved by an earlier top-up is charged up to `target_micros`.

    `consent` is the text that the customer read and agreed to; `actor` who did. Amounts are of the account's currency.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold_micros: Natural
    target_micros: PositiveMicros
    daily_cap_micros: PositiveMicros
    monthly_cap_micros: PositiveMicros
    consent: Annotated[str, Field(min_length=20, max_length=5000)]
    actor: Actor


class AutoTopUpApi:
    def __init__(self, auto_top_ups: AutoTopUps) -> None:
        self._auto_top_ups = auto_top_ups
        self.router = APIRouter(prefix="/v1/accounts/{region}/{tenant_id}/auto-top-up", tags=["automatic top-up"])
        self.router.add_api_route("", self.agree, methods=["PUT"])
        self.router.add_api_route("", self.show, methods=["GET"])
        self.router.add_api_route("", self.end, methods=["DELETE"], status_code=204, response_class=Response)

    async def agree(self, region: RegionName, tenant_id: TenantId, body: AgreementBody) -> dict[str, Any]:
        """Agree, or agree anew: what was suspended goes on."""
        terms = AutoTopUp(body.threshold_micros, body.target_micros, body.daily_cap_micros, body.monthly_cap_micros)
        return _describe(await self._auto_top_ups.agree(region, tenant_id, terms, Consent(body.consent, body.actor)))

    async def show(self, region: RegionName, tenant_id: TenantId) -> dict[str, Any]:
        return _describe(await self._auto_top_ups.load(region, tenant_id))

    async def end(self, region: RegionName, tenant_id: TenantId) -> None:
        """Charge the card no more. Answered when no charge is on its way: what was taken was taken before."""
        await self._auto_top_ups.end(region, tenant_id)


def _describe(agreement: StoredAgreement) -> dict[str, Any]:
    terms = agreement.terms
    return {
        "region": agreement.region,
        "tenant_id": agreement.tenant_id,
        "threshold_micros": terms.threshold_micros,
        "target_micros": terms.target_micros,
        "daily_cap_micros": terms.daily_cap_micros,
        "monthly_cap_micros": terms.monthly_cap_micros,
        "suspended_reason": terms.suspended_reason,
    }
