"""Opening accounts and adjusting them by an operator's hand."""

from dataclasses import dataclass
from typing import Final

import orjson

from services.balance.app.post import AfterCommit, Poster, opening_message
from services.balance.app.unit import unit_of_work
from services.balance.rules.crossing import Movement
from services.balance.rules.posting import adjust
from services.balance.store.accounts import Account, Opening, insert_accounts, load_account, lock_account
from services.balance.store.adjustments import Adjustment, insert_adjustment, load_adjustment
from services.balance.store.chain import Head, lock_heads
from services.balance.store.posting import prefer_plans_by_size
from shared.clock import Clock
from shared.db import Connection, Pool
from shared.errors import Refusal
from shared.ids import content_hash, shard_of
from shared.money import AMOUNT_MICROS_MAX, format_micros
from shared.outbox import append_messages
from shared.settings import SharedSettings

# No operator moves more at once than a hundred thousand million units, nor a balance beyond half of what its column
# holds: charges keep the other half.
OPERATOR_AMOUNT_MICROS_MAX: Final = 10**17
BALANCE_MICROS_MAX: Final = AMOUNT_MICROS_MAX // 2


@dataclass(frozen=True, slots=True)
class AdjustmentRequest:
    """An operator's correction of a balance, positive in the customer's favour."""

    idempotency_key: str
    amount_micros: int
    reason: str
    actor: str

    @property
    def request_hash(self) -> bytes:
        return content_hash(orjson.dumps([self.amount_micros, self.reason, self.actor]))


class Accounts:
    """Use cases on single accounts."""

    def __init__(self, pool: Pool, clock: Clock, settings: SharedSettings, poster: Poster) -> None:
        self._pool = pool
        self._clock = clock
        self._settings = settings
        self._poster = poster

    async def open(self, region: str, tenant_id: str) -> tuple[Account, bool]:
        """Open an account, or answer the one that is there. Raises Refusal for a region of another deployment."""
        async with unit_of_work(self._pool) as (connection, after_commit):
            found = await load_account(connection, region, tenant_id)
            if found is not None:
                return found, False
            head, posted_at_us = await self._lock_head(connection, region, tenant_id, after_commit)
            account, is_new = await self._open(connection, region, tenant_id, head.shard, posted_at_us)
            if is_new:
                await append_messages(connection, [opening_message(account)], posted_at_us)
            return account, is_new

    async def adjust(self, region: str, tenant_id: str, request: AdjustmentRequest) -> Adjustment:
        """Post an adjustment once; a repeat with the same key answers the same. Raises Refusal for another body."""
        async with unit_of_work(self._pool) as (connection, after_commit):
            head, posted_at_us = await self._lock_head(connection, region, tenant_id, after_commit)
            account, is_new = await self._open(connection, region, tenant_id, head.shard, posted_at_us)
            known = await load_adjustment(connection, account.account_id, request.idempotency_key)
            if known is not None:
                if known.request_hash != request.request_hash:
                    raise Refusal("idempotency-key-reused", "this Idempotency-Key was used with another body")
                return known
            return await self._adjust(connection, head, posted_at_us, account, request, is_new=is_new)

    async def _adjust(
        self,
        connection: Connection,
        head: Head,
        posted_at_us: int,
        account: Account,
        request: AdjustmentRequest,
        *,
        is_new: bool,
    ) -> Adjustment:
        check_range(account.standing.balance_micros, request.amount_micros)
        burn_micros = account.standing.burn_micros_per_hour
        key = request.idempotency_key
        movement = Movement(request.amount_micros, key, "adjustment")
        await prefer_plans_by_size(connection)
        await self._poster.post(
            connection,
            adjust(account.account_id, account.name, request.amount_micros, key, request.request_hash, burn_micros),
            [head],
            [posted_at_us],
            lambda _account_id: [(burn_micros, [movement])],
            [account] if is_new else [],
        )
        return await insert_adjustment(connection, account.account_id, request, request.request_hash, posted_at_us)

    async def lock(
        self, connection: Connection, region: str, tenant_id: str, after_commit: AfterCommit
    ) -> tuple[Head, int, Account, list[Account]]:
        """An account's chain head and row, locked, the posting time, and the account again if it was opened now."""
        head, posted_at_us = await self._lock_head(connection, region, tenant_id, after_commit)
        account, is_new = await self._open(connection, region, tenant_id, head.shard, posted_at_us)
        return head, posted_at_us, account, [account] if is_new else []

    async def _lock_head(
        self, connection: Connection, region: str, tenant_id: str, after_commit: AfterCommit
    ) -> tuple[Head, int]:
        """The chain head of an account's shard, locked, and the posting time under it."""
        if region not in self._settings.regions:
            raise Refusal("unknown-region", f"this deployment has no region {region}", status=404)
        [head] = await lock_heads(connection, [shard_of(region, tenant_id, self._settings.shards)])
        posted_at_us = head.posting_time(self._clock.now_us())
        await self._poster.ensure_days(connection, [posted_at_us], after_commit)
        return head, posted_at_us

    async def _open(
        self, connection: Connection, region: str, tenant_id: str, shard: int, opened_at_us: int
    ) -> tuple[Account, bool]:
        """The account, locked, and whether it was opened now; the caller holds its chain head."""
        found = await lock_account(connection, region, tenant_id)
        if found is not None:
            return found, False
        currency = self._settings.regions[region].currency
        [account] = await insert_accounts(connection, [Opening(region, tenant_id, shard, currency, opened_at_us)])
        return account, True


def check_range(balance_micros: int, amount_micros: int) -> None:
    """Refuse what would leave charges no room in the ledger's columns. A step towards zero is never refused."""
    if abs(amount_micros) > OPERATOR_AMOUNT_MICROS_MAX:
        raise Refusal(
            "out-of-range", f"an amount has at most {format_micros(OPERATOR_AMOUNT_MICROS_MAX)} units", status=422
        )
    after_micros = balance_micros + amount_micros
    if abs(after_micros) > max(BALANCE_MICROS_MAX, abs(balance_micros)):
        raise Refusal(
            "out-of-range",
            f"the balance would be {format_micros(after_micros)}, beyond {format_micros(BALANCE_MICROS_MAX)}",
            status=422,
        )
