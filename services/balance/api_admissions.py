"""HTTP of admission: may this tenant create, start or grow something now?"""

from typing import Annotated, Literal, Self

from fastapi import APIRouter, Header, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.balance.app.admissions import Admissions, Asked
from services.balance.rules.admission import Action, Need
from services.balance.store.holds import Hold
from shared.clock import Clock, format_instant
from shared.events.cloudevents import Identifier, RegionName, Sku, TenantId
from shared.events.lifecycle import GpuCount, StorageGb

# What each action is charged for: a container that is started again has its storage charged already.
_FIELDS: dict[Action, frozenset[str]] = {
    "create": frozenset({"gpu_sku", "gpu_count", "persistent_storage_gb"}),
    "start": frozenset({"gpu_sku", "gpu_count"}),
    "restart": frozenset({"gpu_sku", "gpu_count"}),
    "create_volume": frozenset({"size_gb"}),
    "grow_volume": frozenset({"size_gb"}),
}


class AdmissionBody(BaseModel):
    """What is about to happen. A volume's `size_gb` is what it gets, of `grow_volume` what it gets more."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    region: RegionName
    tenant_id: TenantId
    action: Action
    gpu_sku: Sku | None = None
    gpu_count: GpuCount | None = None
    persistent_storage_gb: StorageGb | None = None
    size_gb: StorageGb | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = {name for name in frozenset().union(*_FIELDS.values()) if getattr(self, name) is not None}
        allowed = _FIELDS[self.action]
        # A container without GPUs has no SKU of one.
        required = allowed - {"gpu_sku"} if self.gpu_count == 0 else allowed
        if not required <= given <= allowed:
            raise ValueError(f"{self.action} needs {', '.join(sorted(required))} and nothing else")
        return self

    @property
    def need(self) -> Need:
        storage_gb = self.persistent_storage_gb or self.size_gb or 0
        return Need(self.gpu_sku, self.gpu_count or 0, storage_gb)


class AdmissionAnswer(BaseModel):
    """`state`: `held` until its first charge, its release, or `expires_at`.

    Say `admission_id` in the created or started event: the hold ends with the first charge.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    admission_id: str
    action: Action
    required_micros: Annotated[int, Field(ge=0)]
    state: Literal["held", "charged", "released", "expired"]
    held_at: str
    expires_at: str


class AdmissionProblem(BaseModel):
    """Why it is refused (402). `shortfall_micros` is the smallest top-up with which it would pass.

    `lasts_seconds`: how long the balance lasts as things run now; null: nothing runs. `expiring_micros` of the balance
    ends within the hour and does not count.
    """

    type: Literal["urn:tollkeeper:problem:insufficient-balance"]
    title: str
    status: Literal[402]
    detail: str
    balance_micros: int
    expiring_micros: int
    held_micros: int
    required_micros: int
    shortfall_micros: int
    burn_micros_per_hour: int
    lasts_seconds: int | None
    top_up_url: str | None


class AdmissionsApi:
    """The routes and what they need."""

    def __init__(self, admissions: Admissions, clock: Clock) -> None:
        self._admissions = admissions
        self._clock = clock
        self.router = APIRouter(prefix="/v1/admissions", tags=["admission"])
        problem = {"description": "Not enough balance", "content": {"application/problem+json": {}}}
        self.router.add_api_route(
            "", self.admit, methods=["POST"], responses={402: {**problem, "model": AdmissionProblem}}
        )
        self.router.add_api_route("/{admission_id}", self.show, methods=["GET"])
        self.router.add_api_route("/{admission_id}", self.release, methods=["DELETE"])

    async def admit(
        self, body: AdmissionBody, response: Response, idempotency_key: Annotated[Identifier, Header()]
    ) -> AdmissionAnswer:
        """Ask before it happens: 201 holds an hour of it, 402 says what is lacking. A repeat answers the same."""
        asked = Asked(idempotency_key, body.action, body.need)
        hold, is_new = await self._admissions.admit(body.region, body.tenant_id, asked)
        response.status_code = 201 if is_new else 200
        return self._describe(hold)

    async def show(self, admission_id: Identifier) -> AdmissionAnswer:
        """How an admission stands."""
        return self._describe(await self._admissions.load(admission_id))

    async def release(self, admission_id: Identifier) -> AdmissionAnswer:
        """Say that it does not happen: its hold ends now. What was charged stays charged."""
        return self._describe(await self._admissions.release(admission_id))

    def _describe(self, hold: Hold) -> AdmissionAnswer:
        expired = hold.ended_at_us is None and hold.expires_at_us <= self._clock.now_us()
        return AdmissionAnswer(
            admission_id=hold.admission_id,
            action=hold.action,
            required_micros=hold.amount_micros,
            state="expired" if expired else hold.end_reason or "held",
            held_at=format_instant(hold.held_at_us),
            expires_at=format_instant(hold.expires_at_us),
        )
