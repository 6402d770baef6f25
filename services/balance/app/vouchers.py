"""Vouchers: issued by an operator, redeemed once per tenant, guessed in vain."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from services.balance.app.grants import GrantRequest, Grants
from services.balance.app.unit import unit_of_work
from services.balance.store.grants import StoredGrant
from services.balance.store.vouchers import (
    Voucher,
    count_guess,
    find_redemption,
    find_voucher,
    insert_redemption,
    insert_voucher,
    load_voucher,
    lock_guesses,
    lock_voucher,
)
from shared.clock import HOUR_US, Clock
from shared.db import Connection, Pool, transaction
from shared.errors import Refusal
from shared.ids import content_hash, fact_id
from shared.settings import SharedSettings

_CODE = re.compile(r"[0-9A-Z]{8,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class VoucherRequest:
    """A voucher to issue. Its grants last `grant_seconds` from their redemption on; without `code` one is made."""

    idempotency_key: str
    region: str
    amount_micros: int
    priority: int
    grant_seconds: int
    redeem_until_us: int
    redemptions_max: int
    reason: str
    actor: str
    code: str | None = None

    @property
    def request_hash(self) -> bytes:
        what = [self.region, self.amount_micros, self.priority, self.grant_seconds, self.redeem_until_us]
        return content_hash(orjson.dumps([*what, self.redemptions_max, self.reason, self.actor, self.code]))


class Vouchers:
    """`make_code` gives codes that nobody can guess."""

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        settings: SharedSettings,
        grants: Grants,
        *,
        make_code: Callable[[], str],
        guesses_max: int,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._settings = settings
        self._grants = grants
        self._make_code = make_code
        self._guesses_max = guesses_max

    async def issue(self, request: VoucherRequest) -> tuple[Voucher, str | None]:
        """Issue a voucher once; its code is answered this one time, and None when the issue is repeated."""
        if request.region not in self._settings.regions:
            raise Refusal("unknown-region", f"this deployment has no region {request.region}", status=404)
        code = normalise(request.code or self._make_code())
        voucher = Voucher(
            fact_id("voucher", request.idempotency_key),
            hash_code(code),
            request.region,
            request.amount_micros,
            request.priority,
            request.grant_seconds,
            request.redeem_until_us,
            request.redemptions_max,
            0,
            request.reason,
            request.actor,
            request.request_hash,
            self._clock.now_us(),
        )
        async with transaction(self._pool) as connection:
            if await insert_voucher(connection, voucher):
                return voucher, code
            known = await load_voucher(connection, voucher.voucher_id)
        if known is None:
            raise Refusal("voucher-code-taken", "another voucher has this code; choose another one")
        if known.request_hash != request.request_hash:
            raise Refusal("idempotency-key-reused", "this Idempotency-Key was used with another body")
        return known, None

    async def redeem(self, region: str, tenant_id: str, code: str) -> StoredGrant:
        """Redeem a code; the same tenant gets the same grant again. Raises Refusal, alike for all that is no code."""
        voucher = await self._find(region, tenant_id, code)
        async with unit_of_work(self._pool) as (connection, after_commit):
            request = self._request(voucher)
            grant = await self._grants.give_in(connection, after_commit, region, tenant_id, request)
            await self._count(connection, voucher, grant)
            return grant

    async def _find(self, region: str, tenant_id: str, code: str) -> Voucher:
        """The voucher of a code, without a lock. Raises Refusal, without telling which of the reasons it is.

        A code that is none is counted in the transaction that looked for it: a burst of them guesses no more often.
        """
        if region not in self._settings.regions:
            raise Refusal("unknown-region", f"this deployment has no region {region}", status=404)
        now_us = self._clock.now_us()
        hour_us = now_us - now_us % HOUR_US
        async with transaction(self._pool) as connection:
            if await lock_guesses(connection, region, tenant_id, hour_us) >= self._guesses_max:
                raise Refusal("too-many-codes", "too many codes that are not valid; try again in an hour", status=429)
            voucher = await find_voucher(connection, _digest(code))
            if voucher is not None and voucher.region == region:
                return voucher
            await count_guess(connection, region, tenant_id, hour_us)
        raise Refusal("voucher-invalid", "this code is not valid here", status=422)

    def _request(self, voucher: Voucher) -> GrantRequest:
        """The grant of a redemption; the key is the voucher's, so that a tenant redeems it once."""
        return GrantRequest(
            f"voucher/{voucher.voucher_id}",
            "voucher",
            voucher.amount_micros,
            voucher.priority,
            voucher.reason,
            voucher.actor,
            lasts_seconds=voucher.grant_seconds,
        )

    async def _count(self, connection: Connection, voucher: Voucher, grant: StoredGrant) -> None:
        """Count a redemption under the voucher's lock; one too many, or too late, undoes the grant with it."""
        locked = await lock_voucher(connection, voucher.code_hash)
        assert locked is not None, "vouchers are never deleted"
        if await find_redemption(connection, locked.voucher_id, grant.account_id) is not None:
            return
        now_us = self._clock.now_us()
        if now_us >= locked.redeem_until_us:
            raise Refusal("voucher-expired", "this voucher can be redeemed no longer", status=422)
        if locked.redemptions >= locked.redemptions_max:
            raise Refusal("voucher-used-up", "this voucher was redeemed as often as it may be", status=422)
        await insert_redemption(connection, locked.voucher_id, grant.account_id, grant.grant_id, now_us)


def normalise(code: str) -> str:
    """A code as it is compared: letters and digits, in upper case. Raises Refusal for what can't be one."""
    found = re.sub(r"[\s-]", "", code).upper()
    if _CODE.fullmatch(found) is None:
        raise Refusal("voucher-code", "a code has 8 to 64 letters and digits; dashes are for reading", status=422)
    return found


def hash_code(code: str) -> bytes:
    return content_hash(f"voucher {code}".encode())


def _digest(code: str) -> bytes:
    """The hash of what somebody typed; of what can't be a code, one that no voucher has."""
    try:
        return hash_code(normalise(code))
    except Refusal:
        return b""
