"""The sweep: asks balance for everybody at or below zero, so that a lost event never means "never stopped"."""

import asyncio
from collections.abc import Sequence

from services.enforcement import metrics
from services.enforcement.app.enforce import Enforce
from services.enforcement.clients.asking import UnusableAnswerError
from services.enforcement.clients.balance import BalanceClient
from services.enforcement.rules.account import Account, AccountKey
from services.enforcement.store.accounts import load_accounts_to_ask, load_versions
from services.enforcement.store.sweep_turns import claim_sweep, give_sweep_back, save_swept
from shared.clock import SECOND_US
from shared.db import transaction
from shared.log import get_logger
from shared.set_aside import load_held_back

logger = get_logger(__name__)

KIND = "sweep"
# How often to look whose turn it is.
LOOK_SECONDS = 5.0


class Sweep:
    """One pass over balance's accounts at a time. An answer is applied by its version, like an event."""

    def __init__(self, enforce: Enforce, balance: BalanceClient) -> None:
        self._enforce = enforce
        self._balance = balance

    async def run(self, interval_seconds: float) -> None:
        """Sweep in turn with other processes until cancelled; a fault of balance ends a pass."""
        while True:
            async with transaction(self._enforce.pool) as connection:
                is_ours = await claim_sweep(connection, interval_seconds)
            if is_ours:
                try:
                    await self.sweep()
                except BaseException:
                    async with transaction(self._enforce.pool) as connection:
                        await give_sweep_back(connection)
                    raise
            await asyncio.sleep(min(interval_seconds, LOOK_SECONDS))

    async def sweep(self) -> int:
        """Ask for all accounts, then one by one for those that were not among them; return how many were news.

        Raises OutOfReachError: what was learnt until then stays learnt, nothing is concluded from the rest. An account
        of which the answer makes no sense is set aside, and the others are looked at.
        """
        started_us = self._enforce.clock.now_us()
        listed: set[AccountKey] = set()
        healed = 0
        async for page in self._balance.list_at_or_below_zero():
            listed.update(account.key for account in page.accounts)
            for key, reason in page.unusable.items():
                await self._set_aside(key, UnusableAnswerError(reason))
            listed.update(page.unusable)
            healed += await self._apply(page.accounts)
        async with transaction(self._enforce.pool) as connection:
            believed = sorted(set(await load_accounts_to_ask(connection)) - listed)
            held_back = await load_held_back(connection, KIND, ["/".join(key) for key in believed], started_us)
        for key in believed:
            if "/".join(key) not in held_back:
                healed += await self._ask(key)
        async with transaction(self._enforce.pool) as connection:
            await save_swept(connection, started_us)
        metrics.SWEPT_AT.set(started_us / SECOND_US)
        return healed

    async def _ask(self, key: AccountKey) -> int:
        try:
            answer = await self._balance.load_account(key)
        except UnusableAnswerError as error:
            await self._set_aside(key, error)
            return 0
        if answer is None:
            # Not knowing an account is no reason to change what was published about it.
            logger.warning("sweep.account_unknown_to_balance", region=key.region, tenant_id=key.tenant_id)
            return 0
        return await self._apply([answer.to_account()])

    async def _apply(self, answers: Sequence[Account]) -> int:
        """Apply those answers that are newer than what is known."""
        known = [account for account in answers if account.key.region in self._enforce.settings.regions]
        async with transaction(self._enforce.pool) as connection:
            versions = await load_versions(connection, [account.key for account in known])
        newer = [account for account in known if account.version > versions.get(account.key, 0)]
        await self._enforce.isolation.release(KIND, [_name(account) for account in known if account not in newer])
        healed = await self._enforce.isolation.apply(KIND, newer, _name, self._enforce.apply_answers)
        for account in known:
            if account.version < versions.get(account.key, 0):
                healed += await self._take_back(account.key)
        metrics.SWEEP_HEALED.inc(healed)
        return healed

    async def _take_back(self, key: AccountKey) -> bool:
        """Ask again for an account whose answer was older than what is known.

        What is known before the question was published before it; a ledger that still answers less was set back, and
        its answer is the truth. An older answer that crossed an event is no contradiction.
        """
        async with transaction(self._enforce.pool) as connection:
            version = (await load_versions(connection, [key])).get(key, 0)
        try:
            found = await self._balance.load_account(key)
        except UnusableAnswerError as error:
            await self._set_aside(key, error)
            return False
        answer = None if found is None else found.to_account()
        if answer is None or answer.version >= version:
            return False
        logger.error("sweep.balance_set_back", region=key.region, tenant_id=key.tenant_id, known_version=version)
        await self._enforce.take_back(answer)
        return True

    async def _set_aside(self, key: AccountKey, error: Exception) -> None:
        metrics.SWEEP_UNUSABLE.inc()
        await self._enforce.isolation.set_aside(KIND, "/".join(key), error)


def _name(account: Account) -> str:
    return "/".join(account.key)
