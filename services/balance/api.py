"""Balance's HTTP: accounts, entries, adjustments, evidence, deletion permits, status."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from services.balance.app.accounts import Accounts, AdjustmentRequest
from services.balance.app.permits import Permits
from services.balance.rules.permits import Permit
from services.balance.store.accounts import Account, load_account, load_accounts
from services.balance.store.adjustments import Adjustment
from services.balance.store.grants import is_working_out
from services.balance.store.permits import load_own_use
from services.balance.store.reading import EntryFilter, load_entries, load_status
from services.balance.store.streams import load_evidence
from shared.clock import Clock, format_instant
from shared.cursors import After, Cursors
from shared.db import Connection, Pool, transaction
from shared.errors import Refusal
from shared.events.charges import decompress
from shared.events.cloudevents import Identifier, Instant, Micros, RegionName, TenantId
from shared.money import AMOUNT_MICROS_MAX
from shared.operators import Actor, Reason
from shared.restore_records import find_unconfirmed_restore

PAGE_MAX = 1000
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
_ACCOUNTS = Cursors("accounts", (0,))
_ENTRIES = Cursors("entries", (0,))

# No wider than the columns that they are compared with.
Bound = Annotated[int | None, Query(ge=-AMOUNT_MICROS_MAX - 1, le=AMOUNT_MICROS_MAX)]
From = Annotated[Instant | None, Query(alias="from", description="Posted then or later.")]
To = Annotated[Instant | None, Query(description="Posted before then.")]
Shard = Annotated[int, Path(ge=0, le=2**31 - 1)]
Seq = Annotated[int, Path(ge=0, le=2**63 - 1)]


class AdjustmentBody(BaseModel):
    """`amount_micros` is positive in the customer's favour."""

    model_config = ConfigDict(extra="forbid")

    amount_micros: Micros
    reason: Reason
    actor: Actor


class PermitBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    region: RegionName
    tenant_id: TenantId
    negative_since: Instant
    due_at: Instant


class RedemptionBody(BaseModel):
    """`commanding`: from whoever is about to command the deletion, before anybody can obey it."""

    model_config = ConfigDict(extra="forbid")

    resource_id: Identifier
    commanding: Annotated[bool, Field(strict=True)] = False


class BalanceApi:
    """The routes and what they need."""

    def __init__(self, pool: Pool, clock: Clock, accounts: Accounts, permits: Permits) -> None:
        self._pool = pool
        self._clock = clock
        self._accounts = accounts
        self._permits = permits
        self.router = APIRouter(prefix="/v1", tags=["balance"])
        add = self.router.add_api_route
        add("/status", self.status, methods=["GET"])
        add("/accounts", self.list_accounts, methods=["GET"])
        add("/accounts/{region}/{tenant_id}", self.open, methods=["PUT"])
        add("/accounts/{region}/{tenant_id}", self.account, methods=["GET"])
        add("/accounts/{region}/{tenant_id}/adjustments", self.adjust, methods=["POST"], status_code=201)
        add("/accounts/{region}/{tenant_id}/entries", self.entries, methods=["GET"])
        add("/evidence/{shard}/{seq}", self.evidence, methods=["GET"])
        add("/deletion-permits", self.grant, methods=["POST"], status_code=201)
        add("/deletion-permits/{permit_id}/redemptions", self.redeem, methods=["POST"])

    async def status(self) -> dict[str, Any]:
        """Where consuming, posting and publishing stand."""
        async with transaction(self._pool) as connection:
            status = await load_status(connection)
        return {"now": format_instant(self._clock.now_us()), **status}

    async def list_accounts(
        self, balance_at_most_micros: Bound = None, after: After = None, limit: Limit = 100
    ) -> dict[str, Any]:
        """A page of accounts; `next` is the cursor of the next one, or null."""
        (account_id,) = _ACCOUNTS.read(after)
        async with transaction(self._pool) as connection:
            found = await load_accounts(connection, account_id, limit, balance_at_most_micros=balance_at_most_micros)
        last = (found[-1].account_id,) if len(found) == limit else None
        return {"accounts": [_describe(account) for account in found], "next": _ACCOUNTS.write(last)}

    async def open(self, region: RegionName, tenant_id: TenantId, response: Response) -> dict[str, Any]:
        """Open an account; one that is there is answered as it is."""
        account, is_new = await self._accounts.open(region, tenant_id)
        response.status_code = 201 if is_new else 200
        return _describe(account)

    async def account(self, region: RegionName, tenant_id: TenantId) -> dict[str, Any]:
        """How the account stands, and would without what refunds, disputes and operators took from it.

        While `working_out`, a grant may still pay for some of what the balance has lost: it is asked for again.
        """
        # One snapshot: the balance of before the grant paid must not come with the word of after it.
        async with (
            self._pool.acquire(timeout=30) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            account = await _require(connection, region, tenant_id)
            working_out = await is_working_out(connection, account.account_id)
            own_use = await load_own_use(connection, account.account_id, self._clock.now_us())
            restore = await find_unconfirmed_restore(connection)
        without_micros = account.standing.balance_micros + own_use.reversed_micros
        # A ledger that was set back may lack credits until an operator has looked: nobody's card is charged for that.
        return {
            **_describe(account),
            "balance_without_reversals_micros": without_micros,
            "unconfirmed_restore": restore,
            "working_out": working_out,
        }

    async def adjust(
        self,
        region: RegionName,
        tenant_id: TenantId,
        body: AdjustmentBody,
        idempotency_key: Annotated[Identifier, Header()],
    ) -> dict[str, Any]:
        """Credit or debit by an operator's hand, once per Idempotency-Key."""
        if body.amount_micros == 0:
            raise Refusal("empty-adjustment", "an adjustment moves something; amount_micros is 0", status=422)
        request = AdjustmentRequest(idempotency_key, body.amount_micros, body.reason, body.actor)
        return _describe_adjustment(await self._accounts.adjust(region, tenant_id, request))

    async def entries(
        self,
        region: RegionName,
        tenant_id: TenantId,
        after: After = None,
        limit: Limit = 100,
        number: Bound = None,
        from_: From = None,
        to: To = None,
        *,
        charges: bool = False,
        latest: bool = False,
    ) -> dict[str, Any]:
        """A page of the account's entries, oldest first; with `latest` the last ones, without a next page."""
        (entry_number,) = _ENTRIES.read(after, region, tenant_id)
        wanted = EntryFilter(entry_number, number, from_, to, charges, latest)
        async with transaction(self._pool) as connection:
            account = await _require(connection, region, tenant_id)
            found = await load_entries(connection, account.account_id, wanted, limit)
        last = (found[-1]["entry_number"],) if len(found) == limit and not latest else None
        return {"entries": found, "next": _ENTRIES.write(last, region, tenant_id)}

    async def evidence(self, shard: Shard, seq: Seq) -> Any:  # noqa: ANN401 - the stored document as it is
        """A posted charge batch, from the stored bytes."""
        async with transaction(self._pool) as connection:
            value = await load_evidence(connection, shard, seq)
        if value is None:
            raise Refusal("evidence-not-found", f"no batch {seq} of shard {shard} was posted", status=404)
        return orjson.loads(decompress(value))

    async def grant(self, body: PermitBody) -> dict[str, str]:
        """Consent to a deletion, for a minute; 409 says why not."""
        return _describe_permit(
            await self._permits.grant(body.region, body.tenant_id, body.negative_since, body.due_at)
        )

    async def redeem(self, permit_id: Identifier, body: RedemptionBody) -> dict[str, str]:
        """Use a permit for one resource, immediately before it is deleted; 409 for one that nobody commanded."""
        permit, redemption = await self._permits.redeem(permit_id, body.resource_id, commanding=body.commanding)
        return {
            "permit_id": permit.permit_id,
            "resource_id": redemption.resource_id,
            "redeemed_at": format_instant(redemption.redeemed_at_us),
            "expires_at": format_instant(permit.expires_at_us),
        }


async def _require(connection: Connection, region: str, tenant_id: str) -> Account:
    account = await load_account(connection, region, tenant_id)
    if account is None:
        raise Refusal("account-not-found", f"there is no account {region}/{tenant_id}", status=404)
    return account


def _describe(account: Account) -> dict[str, Any]:
    standing = account.standing
    since = standing.negative_since_us
    return {
        "region": account.region,
        "tenant_id": account.tenant_id,
        "currency": account.currency,
        "state": standing.state,
        "balance_micros": standing.balance_micros,
        "spendable_micros": standing.spendable_micros,
        "burn_micros_per_hour": standing.burn_micros_per_hour,
        "negative_since": None if since is None else format_instant(since),
        "version": standing.account_version,
        "opened_at": format_instant(account.opened_at_us),
    }


def _describe_adjustment(adjustment: Adjustment) -> dict[str, Any]:
    return {
        "idempotency_key": adjustment.idempotency_key,
        "amount_micros": adjustment.amount_micros,
        "reason": adjustment.reason,
        "actor": adjustment.actor,
        "entry_number": adjustment.entry_number,
        "balance_micros": adjustment.balance_after_micros,
        "posted_at": format_instant(adjustment.posted_at_us),
    }


def _describe_permit(permit: Permit) -> dict[str, str]:
    return {
        "permit_id": permit.permit_id,
        "negative_since": format_instant(permit.negative_since_us),
        "expires_at": format_instant(permit.expires_at_us),
    }
