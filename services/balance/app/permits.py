"""Granting and redeeming deletion permits, each under the account's lock."""

from services.balance.rules.permits import Debtor, Permit, check_grant, check_orders, check_redemption, is_live
from services.balance.store.accounts import Account, lock_account, lock_account_id
from services.balance.store.orders import load_pending_orders
from services.balance.store.permits import (
    Redemption,
    insert_permit,
    insert_redemption,
    load_last_permit,
    load_own_use,
    load_permit,
    load_redemption,
)
from shared.clock import SECOND_US, Clock, format_instant
from shared.db import Connection, Pool, transaction
from shared.errors import Refusal
from shared.ids import fact_id
from shared.log import get_logger
from shared.restore_records import find_last_restore, find_unconfirmed_restore
from shared.settings import SharedSettings

logger = get_logger(__name__)


class Permits:
    """Balance's consent to delete what an account in debt owns."""

    def __init__(self, pool: Pool, clock: Clock, settings: SharedSettings, *, permit_us: int) -> None:
        self._pool = pool
        self._clock = clock
        self._settings = settings
        self._permit_us = permit_us

    async def grant(self, region: str, tenant_id: str, negative_since_us: int, due_at_us: int) -> Permit:
        """Grant a permit, or answer the one that is still live. Raises Refusal with the reason."""
        async with transaction(self._pool) as connection:
            account = await lock_account(connection, region, tenant_id)
            if account is None or region not in self._settings.regions:
                raise Refusal("account-not-found", f"there is no account {region}/{tenant_id}", status=404)
            now_us = self._clock.now_us()
            grace_us = self._settings.regions[region].grace_seconds * SECOND_US
            debtor = await self._load_debtor(connection, account, now_us)
            check_grant(debtor, negative_since_us, due_at_us, grace_us, now_us)
            pending = await load_pending_orders(connection, account.account_id)
            check_orders(pending, due_at_us, now_us)
            number, last = await load_last_permit(connection, account.account_id, negative_since_us)
            if last is not None and is_live(last, debtor, now_us):
                return last
            number += 1
            permit = Permit(
                fact_id("deletion-permit", region, tenant_id, negative_since_us, number),
                account.account_id,
                negative_since_us,
                account.credits,
                account.orders,
                now_us + self._permit_us,
            )
            await insert_permit(connection, permit, number, due_at_us, now_us)
        logger.info("permit.granted", permit_id=permit.permit_id, region=region, tenant_id=tenant_id)
        return permit

    async def redeem(self, permit_id: str, resource_id: str, *, commanding: bool = True) -> tuple[Permit, Redemption]:
        """Use a permit for one resource, immediately before its deletion; idempotent. Raises Refusal.

        Whoever obeys a command, and is not `commanding`, can redeem it only for what it was redeemed for before.
        """
        async with transaction(self._pool) as connection:
            permit = await load_permit(connection, permit_id)
            if permit is None:
                raise Refusal("permit-not-found", f"there is no permit {permit_id}", status=404)
            account = await lock_account_id(connection, permit.account_id)
            now_us = self._clock.now_us()
            known = await load_redemption(connection, permit_id, resource_id)
            debtor = await self._load_debtor(connection, account, now_us)
            check_redemption(permit, debtor, now_us, redeemed=known is not None)
            if known is not None:
                return permit, known
            if not commanding:
                raise Refusal("not-commanded", f"no deletion of {resource_id} was commanded under permit {permit_id}")
            redemption = Redemption(permit_id, resource_id, now_us)
            await insert_redemption(connection, redemption)
        logger.info("permit.redeemed", permit_id=permit_id, resource_id=resource_id)
        return permit, redemption

    async def _load_debtor(self, connection: Connection, account: Account, now_us: int) -> Debtor:
        restore = await find_unconfirmed_restore(connection)
        if restore is not None:
            detail = f"this ledger was set back (incarnation {restore}) and no operator has confirmed what was lost"
            raise Refusal("restore-unconfirmed", detail)
        restored_at_us = await find_last_restore(connection)
        standing = account.standing
        grace_us = self._settings.regions[account.region].grace_seconds * SECOND_US
        if restored_at_us is not None and now_us < restored_at_us + grace_us:
            # The ledger has lost credits that it can't know: it proves a grace period below zero only after it.
            detail = f"this ledger was set back at {format_instant(restored_at_us)}, less than a grace period ago"
            raise Refusal("restored-recently", detail)
        own_use = await load_own_use(connection, account.account_id, now_us - grace_us)
        return Debtor(
            standing.balance_micros,
            standing.negative_since_us,
            account.credits,
            account.orders,
            max(standing.balance_micros + own_use.reversed_micros, own_use.highest_micros),
        )
