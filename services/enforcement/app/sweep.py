"""The sweep: asks balance for everybody at or below zero, so that a lost event never means "never stopped"."""

from services.enforcement import metrics
from services.enforcement.app.enforce import Enforce
from services.enforcement.balance_client import BalanceClient
from services.enforcement.rules.account import Account, AccountKey
from services.enforcement.store.accounts import load_accounts_to_ask, load_versions
from shared.clock import SECOND_US
from shared.db import transaction
from shared.log import get_logger

logger = get_logger(__name__)


class Sweep:
    """One pass over balance's accounts at a time. An answer is applied by its version, like an event."""

    def __init__(self, enforce: Enforce, balance: BalanceClient) -> None:
        self._enforce = enforce
        self._balance = balance
        self.swept_at_us: int | None = None

    async def sweep(self) -> int:
        """Ask for all accounts, then one by one for those that were not among them; answer how many were news.

        Raises BalanceOutOfReachError: what was learnt until then stays learnt, nothing is concluded from the rest.
        """
        started_us = self._enforce.clock.now_us()
        listed: set[AccountKey] = set()
        healed = 0
        async for page in self._balance.list_at_or_below_zero():
            listed.update(account.key for account in page)
            healed += await self._apply(page)
        async with transaction(self._enforce.pool) as connection:
            believed = await load_accounts_to_ask(connection)
        for key in sorted(set(believed) - listed):
            answer = await self._balance.load_account(key)
            if answer is None:
                # Not knowing an account is no reason to change what was published about it.
                logger.warning("sweep.account_unknown_to_balance", region=key.region, tenant_id=key.tenant_id)
                continue
            healed += await self._apply([answer])
        self.swept_at_us = started_us
        metrics.SWEPT_AT.set(started_us / SECOND_US)
        return healed

    async def _apply(self, answers: list[Account]) -> int:
        """Apply those answers that are newer than what is known, in one transaction."""
        known = [account for account in answers if account.key.region in self._enforce.settings.regions]
        async with transaction(self._enforce.pool) as connection:
            versions = await load_versions(connection, [account.key for account in known])
        newer = [account for account in known if account.version > versions.get(account.key, 0)]
        healed = await self._enforce.apply_answers(newer)
        metrics.SWEEP_HEALED.inc(healed)
        return healed
