"""The only place that talks to balance. Whatever is not a clear answer is "out of reach": uncertainty, never a fact."""

from collections.abc import AsyncIterator
from typing import Annotated, Literal, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.enforcement import metrics
from services.enforcement.rules.account import Account, AccountKey
from shared.clock import format_instant
from shared.errors import TransientFault
from shared.events.account import AccountState
from shared.events.cloudevents import Identifier, Instant, Micros, RegionName, TenantId

PAGE_ACCOUNTS = 500
TIMEOUT_SECONDS = 5


class BalanceOutOfReachError(TransientFault):
    """No answer, a fault, or an answer of another shape."""


class BalanceRefusalError(Exception):
    """Balance answered with a conflict (409): it does not agree to what was asked."""


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class AccountAnswer(_Answer):
    region: RegionName
    tenant_id: TenantId
    state: AccountState
    balance_micros: Micros
    negative_since: Instant | None
    version: Annotated[int, Field(strict=True, ge=0)]

    def to_account(self) -> Account:
        key = AccountKey(self.region, self.tenant_id)
        return Account(key, self.version, self.state, self.balance_micros, self.negative_since)


class AccountPage(_Answer):
    accounts: list[AccountAnswer]
    next: str | None


class StreamStatus(_Answer):
    shard: int
    stopped: bool | str | None


class BalanceStatus(_Answer):
    """`waiting`: batches that arrived after a gap or on a stopped stream, as a number or as a list of them."""

    now: Instant
    streams: list[StreamStatus]
    waiting: int | list[object]

    @property
    def waiting_count(self) -> int:
        return self.waiting if isinstance(self.waiting, int) else len(self.waiting)

    def stopped_reason(self, shard: int) -> str | None:
        for stream in self.streams:
            if stream.shard == shard and stream.stopped:
                return str(stream.stopped)
        return None


class PermitAnswer(_Answer):
    permit_id: Identifier
    expires_at: Instant
    negative_since: Instant


class RedemptionAnswer(_Answer):
    permit_id: Identifier
    resource_id: Identifier
    redeemed_at: Instant
    expires_at: Instant


_Model = TypeVar("_Model", bound=_Answer)


class BalanceClient:
    """Questions to balance over HTTP; `client` has balance's address as its base."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def list_at_or_below_zero(self) -> AsyncIterator[list[Account]]:
        """Pages of all accounts with a balance of at most zero. Raises BalanceOutOfReachError, also half-way."""
        after: str | None = None
        seen: set[str] = set()
        while True:
            query: dict[str, str | int] = {"balance_at_most_micros": 0, "limit": PAGE_ACCOUNTS}
            if after is not None:
                query["after"] = after
            page = await self._ask(AccountPage, "GET", "/v1/accounts", query=query)
            yield [answer.to_account() for answer in page.accounts]
            if page.next is None:
                return
            if page.next in seen:
                raise BalanceOutOfReachError("balance's pages of accounts go round in circles")
            seen.add(page.next)
            after = page.next

    async def load_account(self, key: AccountKey) -> Account | None:
        """The account as it is now; None only where balance says that there is no such account."""
        path = f"/v1/accounts/{quote(key.region, safe='')}/{quote(key.tenant_id, safe='')}"
        response = await self._send("GET", path)
        if response.status_code == httpx.codes.NOT_FOUND and _is_problem(response):
            return None
        account = self._read(AccountAnswer, response).to_account()
        if account.key != key:
            raise BalanceOutOfReachError(f"balance answered for {account.key} when asked for {key}")
        return account

    async def load_status(self) -> BalanceStatus:
        return await self._ask(BalanceStatus, "GET", "/v1/status")

    async def ask_permit(self, key: AccountKey, negative_since_us: int, due_at_us: int) -> PermitAnswer:
        """Raises BalanceRefusalError, BalanceOutOfReachError."""
        body = {
            "region": key.region,
            "tenant_id": key.tenant_id,
            "negative_since": format_instant(negative_since_us),
            "due_at": format_instant(due_at_us),
        }
        permit = await self._ask(PermitAnswer, "POST", "/v1/deletion-permits", body=body)
        if permit.negative_since != negative_since_us:
            raise BalanceOutOfReachError("balance granted a permit for another instant than asked")
        return permit

    async def redeem(self, permit_id: str, resource_id: str) -> RedemptionAnswer:
        """Use a permit for one resource, immediately before its command. Raises as `ask_permit`."""
        path = f"/v1/deletion-permits/{quote(permit_id, safe='')}/redemptions"
        redemption = await self._ask(RedemptionAnswer, "POST", path, body={"resource_id": resource_id})
        if (redemption.permit_id, redemption.resource_id) != (permit_id, resource_id):
            raise BalanceOutOfReachError("balance answered with the redemption of something else")
        return redemption

    async def _ask(
        self,
        model: type[_Model],
        method: Literal["GET", "POST"],
        path: str,
        *,
        query: dict[str, str | int] | None = None,
        body: dict[str, str] | None = None,
    ) -> _Model:
        return self._read(model, await self._send(method, path, query=query, body=body))

    async def _send(
        self,
        method: Literal["GET", "POST"],
        path: str,
        *,
        query: dict[str, str | int] | None = None,
        body: dict[str, str] | None = None,
    ) -> httpx.Response:
        try:
            return await self._client.request(method, path, params=query, json=body)
        except httpx.HTTPError as error:
            metrics.BALANCE_FAULTS.inc()
            raise BalanceOutOfReachError(f"balance is out of reach: {error!r}") from error

    def _read(self, model: type[_Model], response: httpx.Response) -> _Model:
        if response.status_code == httpx.codes.CONFLICT and _is_problem(response):
            raise BalanceRefusalError(_reason(response))
        if not response.is_success:
            metrics.BALANCE_FAULTS.inc()
            raise BalanceOutOfReachError(f"balance answered {response.status_code} to {response.request.url.path}")
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            metrics.BALANCE_FAULTS.inc()
            raise BalanceOutOfReachError(f"balance gave no usable answer: {error}") from error


def _is_problem(response: httpx.Response) -> bool:
    return str(response.headers.get("content-type", "")).startswith("application/problem+json")


class _Problem(_Answer):
    type: str = ""
    detail: str = ""


def _reason(response: httpx.Response) -> str:
    try:
        problem = _Problem.model_validate_json(response.content)
    except ValidationError:
        return "conflict"
    return f"{problem.type.rpartition(':')[2]}: {problem.detail}"[:500]


def open_client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS)
