"""Due deletion cases: examined with fresh evidence, and carried out resource by resource under a live permit.

Safe to kill anywhere: a redemption is idempotent by (permit, resource), and the command leaves with the transaction
that notes it. What is not known freezes the case; out of reach means wait.
"""

import asyncio
import math
from dataclasses import asdict, replace

from services.enforcement import metrics
from services.enforcement.app.clock_guard import ClockGuard
from services.enforcement.app.enforce import Enforce
from services.enforcement.balance_client import BalanceClient, BalanceRefusalError, PermitAnswer, RedemptionAnswer
from services.enforcement.messages import DeleteOrder
from services.enforcement.positions import Ends, Positions
from services.enforcement.rules.deletion import Case, Evidence, find_objections
from services.enforcement.store.accounts import load_versions
from services.enforcement.store.breakers import take_allowance
from services.enforcement.store.cases import load_cases, load_due_cases, save_evidence
from services.enforcement.store.halts import load_halt
from services.enforcement.store.resources import load_live
from services.enforcement.store.targets import Target, insert_targets, load_targets, mark_commanded
from shared.clock import HOUR_US, SECOND_US
from shared.db import transaction
from shared.errors import TransientFault
from shared.ids import shard_of
from shared.log import get_logger

logger = get_logger(__name__)

CASES_MAX = 50
CATCH_UP_PAUSE_SECONDS = 0.05
# One question to the broker serves the cases of a pass; what an account did since is asked of balance for each.
ENDS_AGE_SECONDS_MAX = 1.0
NO_GUARDS = "guards are not installed for this runtime: nothing is deleted, this is a plan"


class BreakerError(Exception):
    """More would be deleted in an hour than the region allows."""


class Deletions:
    """One pass over due cases at a time."""

    def __init__(self, enforce: Enforce, balance: BalanceClient, positions: Positions) -> None:
        self._enforce = enforce
        self._settings = enforce.settings
        self._balance = balance
        self._positions = positions
        self.guard = ClockGuard(enforce.pool, enforce.clock, enforce.settings)
        self._retry_at: dict[str, float] = {}
        self._ends: Ends = {}
        self._ends_asked_at = -math.inf

    async def run(self) -> None:
        """Examine due cases until cancelled."""
        await self.guard.check_start()
        while True:
            await self.guard.check()
            await self.examine_due()
            await asyncio.sleep(self._settings.enforcement_deletion_poll_seconds)

    async def examine_due(self) -> None:
        """Examine every due case whose retry pause is over."""
        now = asyncio.get_running_loop().time()
        self._retry_at = {case_id: at for case_id, at in self._retry_at.items() if at > now}
        async with transaction(self._enforce.pool) as connection:
            due = await load_due_cases(connection, self._enforce.clock.now_us(), CASES_MAX, but=list(self._retry_at))
        for case in due:
            self._retry_at[case.case_id] = now + self._settings.enforcement_deletion_retry_seconds
            await self._examine(case)

    async def _examine(self, case: Case) -> None:
        if self._settings.runtime != "simulator":
            await self._plan(case)
            return
        try:
            self.guard.require_no_jump()
            evidence = await self._gather(case)
            if evidence.account is not None:
                await self._enforce.apply_answers([evidence.account])
            skew = self._settings.enforcement_clock_skew_seconds_max
            objections = find_objections(case, evidence, skew_seconds_max=skew)
            if objections:
                await self._freeze(case, "; ".join(objections), evidence)
                return
            try:
                permit = await self._balance.ask_permit(case.key, case.negative_since_us, case.due_at_us)
                await self._carry_out(case, permit, evidence)
            except (BalanceRefusalError, BreakerError) as error:
                await self._freeze(case, str(error), evidence)
        except TransientFault as error:
            # Absence of an answer is never a reason to delete: the case is looked at again later.
            logger.warning("deletion.waits", case_id=case.case_id, error=str(error)[:500])

    async def _gather(self, case: Case) -> Evidence:
        """Ask for everything that could speak against it. Raises TransientFault where an answer is missing."""
        unseen = await self._catch_up()
        asked_at_us = self._enforce.clock.now_us()
        account = await self._balance.load_account(case.key)
        status = await self._balance.load_status()
        async with transaction(self._enforce.pool) as connection:
            versions = await load_versions(connection, [case.key])
            halted = await load_halt(connection)
        shard = shard_of(case.key.region, case.key.tenant_id, self._settings.shards)
        return Evidence(
            asked_at_us,
            account,
            versions.get(case.key, 0),
            status.now,
            status.stopped_reason(shard),
            status.waiting_count,
            unseen,
            halted,
        )

    async def _catch_up(self) -> int:
        """Wait a while until what is published by now is applied; answer how many records still are not."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._ends_asked_at > ENDS_AGE_SECONDS_MAX:
            asked_at = loop.time()
            self._ends, self._ends_asked_at = await self._positions.load_ends(), asked_at
        deadline = loop.time() + self._settings.enforcement_catch_up_seconds_max
        while (unseen := await self._positions.count_unseen(self._ends)) and loop.time() < deadline:
            await asyncio.sleep(CATCH_UP_PAUSE_SECONDS)
        return unseen

    async def _plan(self, known: Case) -> None:
        """What would be deleted now, for people to read; nobody is told, nobody is paged."""
        async with self._enforce.unit() as (connection, unit):
            scene = await unit.begin([known.key])
            current = _find_open(await load_cases(connection, [known.key]), known)
            if current is None:
                return
            scene.change_case(replace(current, state="plan", reason=NO_GUARDS))
            await unit.save(scene)
            await insert_targets(connection, current.case_id, await load_live(connection, known.key))
        logger.warning("deletion.planned", case_id=known.case_id)

    async def _freeze(self, known: Case, reason: str, evidence: Evidence) -> None:
        """Note under the account's lock why a case is not carried out, and tell it if it is news."""
        async with self._enforce.unit() as (connection, unit):
            scene = await unit.begin([known.key])
            current = _find_open(await load_cases(connection, [known.key]), known)
            if current is None or (current.state, current.reason) == ("frozen", reason):
                return
            case = scene.change_case(replace(current, state="frozen", reason=reason))
            scene.messages.append(unit.make.case_event("deletion.frozen", case, reason))
            await unit.save(scene)
            await save_evidence(connection, case.case_id, asdict(evidence))
        metrics.DELETIONS_FROZEN.inc()
        logger.error("deletion.frozen", case_id=known.case_id, reason=reason)

    async def _carry_out(self, known: Case, permit: PermitAnswer, evidence: Evidence) -> None:
        """Command the deletion of everything that the account has, one redemption per resource."""
        targets = await self._begin(known, permit, evidence)
        for target in targets:
            redemption = await self._balance.redeem(permit.permit_id, target.resource_id)
            if not await self._command(known, target, redemption):
                return

    async def _begin(self, known: Case, permit: PermitAnswer, evidence: Evidence) -> list[Target]:
        """Note the permit and the resources; answer those that are to be commanded now."""
        async with self._enforce.unit() as (connection, unit):
            scene = await unit.begin([known.key])
            cases = await load_cases(connection, [known.key])
            scene.add_cases(cases)
            current = _find_open(cases, known)
            if current is None:
                return []
            case = scene.change_case(
                replace(
                    current,
                    state="carrying_out",
                    reason=None,
                    permit_id=permit.permit_id,
                    permit_expires_at_us=permit.expires_at,
                )
            )
            live = await load_live(connection, known.key)
            finished = not live and await unit.finish_case(scene, case)
            await unit.save(scene)
            await save_evidence(connection, case.case_id, asdict(evidence))
            await insert_targets(connection, case.case_id, live)
            if finished:
                return []
            targets = await load_targets(connection, case.case_id)
        return [target for target in targets if _is_open(target, unit.now_us)]

    async def _command(self, known: Case, target: Target, redemption: RedemptionAnswer) -> bool:
        """Append the command under the account's lock; False if the case does not stand any more.

        Raises BreakerError, and TransientFault where what was asked before is not fresh enough to act on.
        """
        async with self._enforce.unit() as (connection, unit):
            scene = await unit.begin([known.key])
            current = _find_open(await load_cases(connection, [known.key]), known)
            account = scene.accounts[known.key]
            if current is None or not account.is_negative or account.negative_since_us != known.negative_since_us:
                return False
            self.guard.require_no_jump()
            if unit.now_us >= redemption.expires_at:
                raise TransientFault("the permit expired between its redemption and the command")
            most = self._settings.enforcement_deletions_per_hour_max
            if not await take_allowance(connection, "deletions", unit.now_us, HOUR_US, 1, most):
                raise BreakerError(f"the breaker allows {most} deletions an hour")
            expiry_us = unit.now_us + self._settings.enforcement_deletion_expiry_seconds * SECOND_US
            expires_at_us = min(expiry_us, redemption.expires_at)
            attempt = target.commands + 1
            order = DeleteOrder(
                current, target.resource_id, target.family, redemption.permit_id, attempt, expires_at_us
            )
            scene.messages.append(unit.make.delete(order))
            scene.messages.append(unit.make.target_event("deletion.commanded", current, target.resource_id, attempt))
            await mark_commanded(
                connection,
                target,
                redemption.permit_id,
                redeemed_at_us=redemption.redeemed_at,
                now_us=unit.now_us,
                expires_at_us=expires_at_us,
            )
            await unit.save(scene)
        metrics.DELETE_COMMANDS.inc()
        logger.warning("deletion.commanded", case_id=known.case_id, resource_id=target.resource_id)
        return True


def _find_open(cases: list[Case], known: Case) -> Case | None:
    """The case as it is now, if it still stands."""
    return next((case for case in cases if case.case_id == known.case_id and case.is_open), None)


def _is_open(target: Target, now_us: int) -> bool:
    """Not gone, and without a command that may still be obeyed."""
    expired = target.command_expires_at_us is None or target.command_expires_at_us <= now_us
    return target.done_at_us is None and expired
