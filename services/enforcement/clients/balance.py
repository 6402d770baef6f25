"""Questions to balance: accounts, its status, and its consent to deletions."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote

import httpx
from pydantic import Field, ValidationError

from services.enforcement.clients.asking import Answer, Asker, OutOfReachError, UnusableAnswerError, is_problem
from services.enforcement.rules.account import Account, AccountKey
from services.enforcement.rules.guards import BalanceSeen
from shared.clock import format_instant
from shared.events.account import AccountState
from shared.events.cloudevents import Identifier, Instant, Micros, RegionName, TenantId

PAGE_ACCOUNTS = 500


class AccountKeyAnswer(Answer):
    region: RegionName
    tenant_id: TenantId


class AccountAnswer(AccountKeyAnswer):
    """`balance_without_reversals_micros` comes with a single account, not in a list."""

    state: AccountState
    balance_micros: Micros
    negative_since: Instant | None
    version: Annotated[int, Field(strict=True, ge=0)]
    balance_without_reversals_micros: Micros | None = None

    def to_account(self) -> Account:
        key = AccountKey(self.region, self.tenant_id)
        return Account(key, self.version, self.state, self.balance_micros, self.negative_since)


class _AccountPage(Answer):
    accounts: list[dict[str, object]]
    next: str | None


class _StreamStatus(Answer):
    shard: int
    seq: int = 0
    stopped: bool | str | None


class BalanceStatus(Answer):
    now: Instant
    streams: list[_StreamStatus]

    def seen_of(self, shard: int) -> BalanceSeen:
        """How it stands with a shard; one without charges so far has no stream."""
        stream = next((stream for stream in self.streams if stream.shard == shard), None)
        if stream is None:
            return BalanceSeen(self.now, 0, None)
        return BalanceSeen(self.now, stream.seq, str(stream.stopped) if stream.stopped else None)


class PermitAnswer(Answer):
    permit_id: Identifier
    expires_at: Instant
    negative_since: Instant


class RedemptionAnswer(Answer):
    permit_id: Identifier
    resource_id: Identifier
    redeemed_at: Instant
    expires_at: Instant


@dataclass(frozen=True, slots=True)
class AccountList:
    """A page of accounts. `unusable` are those of which the page says something that makes no sense."""

    accounts: list[Account]
    unusable: dict[AccountKey, str]


class BalanceClient:
    """`client` has balance's address as its base."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._asker = Asker("balance", client)

    async def list_at_or_below_zero(self) -> AsyncIterator[AccountList]:
        """Pages of all accounts with a balance of at most zero. Raises OutOfReachError, also half-way."""
        after: str | None = None
        seen: set[str] = set()
        while True:
            query: dict[str, str | int] = {"balance_at_most_micros": 0, "limit": PAGE_ACCOUNTS}
            if after is not None:
                query["after"] = after
            page = await self._asker.ask(_AccountPage, "GET", "/v1/accounts", query=query)
            yield _read_accounts(page.accounts)
            if page.next is None:
                return
            if page.next in seen:
                raise OutOfReachError("balance's pages of accounts go round in circles")
            seen.add(page.next)
            after = page.next

    async def load_account(self, key: AccountKey) -> AccountAnswer | None:
        """The account as it is now; None only where balance says that there is no such account."""
        path = f"/v1/accounts/{quote(key.region, safe='')}/{quote(key.tenant_id, safe='')}"
        response = await self._asker.send("GET", path)
        if response.status_code == httpx.codes.NOT_FOUND and is_problem(response):
            return None
        answer = self._asker.read(AccountAnswer, response)
        if answer.to_account().key != key:
            raise UnusableAnswerError(f"balance answered for {answer.to_account().key} when asked for {key}")
        return answer

    async def load_status(self) -> BalanceStatus:
        return await self._asker.ask(BalanceStatus, "GET", "/v1/status")

    async def ask_permit(self, key: AccountKey, negative_since_us: int, due_at_us: int) -> PermitAnswer:
        """Raises RefusedError, OutOfReachError."""
        body = {
            "region": key.region,
            "tenant_id": key.tenant_id,
            "negative_since": format_instant(negative_since_us),
            "due_at": format_instant(due_at_us),
        }
        permit = await self._asker.ask(PermitAnswer, "POST", "/v1/deletion-permits", body=body)
        if permit.negative_since != negative_since_us:
            raise OutOfReachError("balance granted a permit for another instant than asked")
        return permit

    async def redeem(self, permit_id: str, resource_id: str) -> RedemptionAnswer:
        """Use a permit for one resource, immediately before its command. Raises as `ask_permit`."""
        path = f"/v1/deletion-permits/{quote(permit_id, safe='')}/redemptions"
        body = {"resource_id": resource_id, "commanding": True}
        redemption = await self._asker.ask(RedemptionAnswer, "POST", path, body=body)
        if (redemption.permit_id, redemption.resource_id) != (permit_id, resource_id):
            raise OutOfReachError("balance answered with the redemption of something else")
        return redemption


def _read_accounts(items: list[dict[str, object]]) -> AccountList:
    """Read each by itself: one that can't be read stands before nobody."""
    found = AccountList([], {})
    for item in items:
        try:
            found.accounts.append(AccountAnswer.model_validate(item).to_account())
        except ValidationError as error:
            try:
                named = AccountKeyAnswer.model_validate(item)
            except ValidationError:
                raise UnusableAnswerError("balance listed an account without a name") from error
            key = AccountKey(named.region, named.tenant_id)
            found.unusable[key] = f"balance's account can't be read: {error.errors()[0]['loc']}"
    return found
