"""HTTP of promotional credit: grants by operators, vouchers, and what is left of both."""

from typing import Annotated, Any

from fastapi import APIRouter, Header
from pydantic import BaseModel, ConfigDict, Field

from services.balance.app.accounts import OPERATOR_AMOUNT_MICROS_MAX
from services.balance.app.grants import GrantRequest, Grants, Standing
from services.balance.app.vouchers import VoucherRequest, Vouchers
from services.balance.store.grants import StoredGrant
from shared.clock import format_instant
from shared.events.cloudevents import Identifier, Instant, RegionName, TenantId
from shared.operators import Actor, Reason

Key = Annotated[Identifier, Header(alias="Idempotency-Key")]
Amount = Annotated[int, Field(strict=True, gt=0, le=OPERATOR_AMOUNT_MICROS_MAX)]
Priority = Annotated[int, Field(strict=True, ge=0, le=1000)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    amount_micros: Amount
    priority: Priority = 100
    reason: Reason
    actor: Actor


class GrantBody(_Body):
    """Promotional credit until `expires_at`. A lower `priority` is burnt sooner."""

    expires_at: Instant


class VoucherBody(_Body):
    """`code` is made where none is given. A grant of it lasts `valid_days` from its redemption on."""

    region: RegionName
    code: Annotated[str, Field(max_length=100)] | None = None
    valid_days: Annotated[int, Field(strict=True, ge=1, le=3650)]
    redeem_until: Instant
    redemptions_max: Annotated[int, Field(strict=True, ge=1, le=10_000_000)] = 1


class RedemptionBody(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    code: Annotated[str, Field(max_length=100)]


class GrantsApi:
    """The routes and what they need."""

    def __init__(self, grants: Grants, vouchers: Vouchers) -> None:
        self._grants = grants
        self._vouchers = vouchers
        self.router = APIRouter(prefix="/v1", tags=["promotional credit"])
        add = self.router.add_api_route
        add("/accounts/{region}/{tenant_id}/grants", self.give, methods=["POST"], status_code=201)
        add("/accounts/{region}/{tenant_id}/grants", self.list_grants, methods=["GET"])
        add("/vouchers", self.issue, methods=["POST"], status_code=201)
        add("/accounts/{region}/{tenant_id}/voucher-redemptions", self.redeem, methods=["POST"], status_code=201)

    async def give(
        self, region: RegionName, tenant_id: TenantId, body: GrantBody, idempotency_key: Key
    ) -> dict[str, Any]:
        """Give promotional credit, once per Idempotency-Key."""
        request = GrantRequest(
            f"promotion/{idempotency_key}",
            "promotion",
            body.amount_micros,
            body.priority,
            body.reason,
            body.actor,
            expires_at_us=body.expires_at,
        )
        return _describe(await self._grants.give(region, tenant_id, request))

    async def list_grants(self, region: RegionName, tenant_id: TenantId) -> dict[str, Any]:
        """Promotional credit with what is left of each now.

        `state`: `active`; `ended`, when only what was used before its end and is not posted yet may burn it; `expired`,
        when the rest was posted too.
        """
        return {"grants": [_describe_standing(item) for item in await self._grants.load(region, tenant_id)]}

    async def issue(self, body: VoucherBody, idempotency_key: Key) -> dict[str, Any]:
        """Issue a voucher. Its `code` is told this once; a repeat answers null for it."""
        request = VoucherRequest(
            idempotency_key,
            body.region,
            body.amount_micros,
            body.priority,
            body.valid_days * 86_400,
            body.redeem_until,
            body.redemptions_max,
            body.reason,
            body.actor,
            body.code,
        )
        voucher, code = await self._vouchers.issue(request)
        return {
            "voucher_id": voucher.voucher_id,
            "code": code,
            "region": voucher.region,
            "amount_micros": voucher.amount_micros,
            "redemptions": voucher.redemptions,
            "redemptions_max": voucher.redemptions_max,
            "redeem_until": format_instant(voucher.redeem_until_us),
        }

    async def redeem(self, region: RegionName, tenant_id: TenantId, body: RedemptionBody) -> dict[str, Any]:
        """Redeem a code, once per tenant; a repeat answers the same grant."""
        return _describe(await self._vouchers.redeem(region, tenant_id, body.code))


def _describe(grant: StoredGrant) -> dict[str, Any]:
    return {
        "grant_id": grant.grant_id,
        "kind": grant.kind,
        "amount_micros": grant.amount_micros,
        "priority": grant.priority,
        "expires_at": format_instant(grant.expires_at_us),
        "granted_at": format_instant(grant.granted_at_us),
    }


def _describe_standing(standing: Standing) -> dict[str, Any]:
    return {**_describe(standing.grant), "state": standing.state, "remaining_micros": standing.remaining_micros}
