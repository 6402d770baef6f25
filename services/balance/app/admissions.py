"""Admission: whether a balance pays for an hour of something new, decided and held under the account's lock."""

from dataclasses import asdict, dataclass

import orjson

from services.balance import metrics
from services.balance.app.grants import Grants
from services.balance.events import account_message
from services.balance.rules.admission import (
    Action,
    Funds,
    Need,
    find_shortfall,
    lasts_seconds,
    require_hour,
)
from services.balance.rules.crossing import raise_low
from services.balance.store.accounts import Account, lock_account, save_standings
from services.balance.store.holds import (
    Hold,
    insert_hold,
    load_admission,
    load_hold,
    release_hold,
    sum_holds,
)
from services.balance.store.prices import load_prices
from shared.clock import HOUR_US, Clock
from shared.db import Connection, Pool, transaction
from shared.errors import Refusal
from shared.ids import content_hash, fact_id
from shared.log import get_logger
from shared.money import format_micros
from shared.outbox import append_messages
from shared.settings import SharedSettings

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a platform is about to do for a tenant, once per key."""

    idempotency_key: str
    action: Action
    need: Need

    @property
    def request_hash(self) -> bytes:
        return content_hash(orjson.dumps([self.action, asdict(self.need)]))


@dataclass(frozen=True, slots=True)
class AdmissionTerms:
    """How long an admission holds, whether what already runs is to be covered too, and where to top up."""

    hold_us: int
    counts_burn: bool
    low_cooldown_us: int
    top_up_url: str | None


class Admissions:
    def __init__(
        self, pool: Pool, clock: Clock, settings: SharedSettings, grants: Grants, terms: AdmissionTerms
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._settings = settings
        self._grants = grants
        self._terms = terms

    async def admit(self, region: str, tenant_id: str, asked: Asked) -> tuple[Hold, bool]:
        """Hold an hour of it, or return the hold that the key has, and whether it is new.

        Raises Refusal: `insufficient-balance` (402) with what is lacking, `unknown-sku`, `idempotency-key-reused`.
        """
        if region not in self._settings.regions:
            raise Refusal("unknown-region", f"this deployment has no region {region}", status=404)
        refusal: Refusal | None = None
        async with transaction(self._pool) as connection:
            account = await lock_account(connection, region, tenant_id)
            now_us = self._clock.now_us()
            known = None if account is None else await load_hold(connection, account.account_id, asked.idempotency_key)
            if known is not None:
                if known.request_hash != asked.request_hash:
                    raise Refusal("idempotency-key-reused", "this Idempotency-Key was used with another body")
                return known, False
            prices = await load_prices(connection, region, asked.need.quantities())
            required_micros = require_hour(asked.need, prices, now_us)
            funds = Funds(0) if account is None else await self._load_funds(connection, account, now_us)
            shortfall_micros = find_shortfall(funds, required_micros)
            if shortfall_micros:
                refusal = self._refuse(funds, required_micros, shortfall_micros)
                if account is not None:
                    await self._tell_low(connection, account, now_us)
            else:
                assert account is not None, "without an account there is no balance"
                hold = self._hold(account, asked, required_micros, now_us)
                await insert_hold(connection, hold)
        # Not within the transaction: that it was refused is told.
        if refusal is not None:
            metrics.ADMISSIONS.labels("refused").inc()
            raise refusal
        metrics.ADMISSIONS.labels("admitted").inc()
        return hold, True

    async def load(self, admission_id: str) -> Hold:
        """An admission by its id. Raises Refusal (404)."""
        async with transaction(self._pool) as connection:
            return await _require(connection, admission_id)

    async def release(self, admission_id: str) -> Hold:
        """Hold it no longer: what was admitted does not happen. One that ended stays as it ended. Raises Refusal."""
        async with transaction(self._pool) as connection:
            await _require(connection, admission_id)
            await release_hold(connection, admission_id, self._clock.now_us())
            return await _require(connection, admission_id)

    def _hold(self, account: Account, asked: Asked, required_micros: int, now_us: int) -> Hold:
        return Hold(
            fact_id("admission", account.region, account.tenant_id, asked.idempotency_key),
            account.account_id,
            asked.idempotency_key,
            asked.request_hash,
            asked.action,
            required_micros,
            now_us,
            now_us + self._terms.hold_us,
        )

    async def _load_funds(self, connection: Connection, account: Account, now_us: int) -> Funds:
        grants = await self._grants.load_in(connection, account.account_id)
        return Funds(
            spendable_micros=account.standing.spendable_micros,
            expiring_micros=sum(
                item.remaining_micros for item in grants if item.grant.expires_at_us < now_us + HOUR_US
            ),
            held_micros=await sum_holds(connection, account.account_id, now_us),
            burn_micros_per_hour=account.standing.burn_micros_per_hour,
            counts_burn=self._terms.counts_burn,
        )

    def _refuse(self, funds: Funds, required_micros: int, shortfall_micros: int) -> Refusal:
        burn_micros = funds.burn_micros_per_hour
        return Refusal(
            "insufficient-balance",
            f"an hour of it costs {format_micros(required_micros)}: {format_micros(shortfall_micros)} are lacking",
            status=402,
            balance_micros=funds.spendable_micros,
            expiring_micros=funds.expiring_micros,
            held_micros=funds.held_micros,
            required_micros=required_micros,
            shortfall_micros=shortfall_micros,
            burn_micros_per_hour=burn_micros,
            lasts_seconds=lasts_seconds(funds.spendable_micros, burn_micros),
            top_up_url=self._terms.top_up_url,
        )

    async def _tell_low(self, connection: Connection, account: Account, now_us: int) -> None:
        standing, told = raise_low(account.standing, now_us, low_cooldown_us=self._terms.low_cooldown_us)
        if told is None:
            return
        await save_standings(connection, [(account.account_id, standing)])
        message = account_message(account.shard, account.region, account.tenant_id, account.currency, told, now_us)
        await append_messages(connection, [message], now_us)


async def _require(connection: Connection, admission_id: str) -> Hold:
    found = await load_admission(connection, admission_id)
    if found is None:
        raise Refusal("admission-not-found", f"there is no admission {admission_id}", status=404)
    return found
