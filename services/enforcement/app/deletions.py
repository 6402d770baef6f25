"""Due deletion cases: examined with fresh evidence, and carried out resource by resource under a live permit.

Safe to kill anywhere: a redemption is idempotent by (permit, resource), and the command leaves with the transaction
that notes it. What is not known freezes the case; out of reach means wait.
"""

import asyncio
from dataclasses import asdict, replace

from services.enforcement import metrics
from services.enforcement.app.enforce import Enforce
from services.enforcement.balance_client import BalanceClient, BalanceRefusalError, PermitAnswer
from services.enforcement.messages import DeleteOrder
from services.enforcement.positions import Positions
from services.enforcement.rules.deletion import Case, Evidence, find_objections
from services.enforcement.store.accounts import load_versions
from services.enforcement.store.breakers import take_allowance
from services.enforcement.store.cases import load_cases, load_due_cases, save_evidence
from services.enforcement.store.halts import insert_halt, load_halt
from services.enforcement.store.resources import load_live
from services.enforcement.store.targets import Target, insert_targets, load_targets, mark_commanded
from shared.clock import HOUR_US, SECOND_US, JumpDetector
from shared.db import transaction
from shared.errors import TransientFault
from shared.ids import shard_of
from shared.log import get_logger

logger = get_logger(__name__)

CASES_MAX = 50
NO_GUARDS = "guards are not installed for this runtime: nothing is deleted, this is a plan"


class Deletions:
    """One pass over due cases at a time."""

    def __init__(self, enforce: Enforce, balance: BalanceClient, positions: Positions) -> None:
        self._enforce = enforce
        self._settings = enforce.settings
        self._balance = balance
        self._positions = positions
        self._jumps = JumpDetector(enforce.clock)
        self._retry_at: dict[str, float] = {}

    async def run(self) -> None:
        """Examine due cases until cancelled."""
        while True:
            await self._watch_clock()
            await self.examine_due()
            await asyncio.sleep(self._settings.enforcement_deletion_poll_seconds)

    async def _watch_clock(self) -> None:
        jump_us = self._jumps.jump_us()
        if self._settings.sanity_limits == "off" or self._enforce.clock.is_test:
            return
        if abs(jump_us) > self._settings.enforcement_clock_jump_seconds_max * SECOND_US:
            reason = f"the clock jumped by {jump_us // SECOND_US} s beyond monotonic time"
            logger.error("deletions.halted", reason=reason)
            async with transaction(self._enforce.pool) as connection:
                await insert_halt(connection, reason, self._enforce.clock.now_us())

    async def examine_due(self) -> None:
        """Examine every due case whose retry pause is over."""
        async with transaction(self._enforce.pool) as connection:
            due = await load_due_cases(connection, self._enforce.clock.now_us(), CASES_MAX)
        now = asyncio.get_running_loop().time()
        for case in due:
            if self._retry_at.get(case.case_id, 0) <= now:
                self._retry_at[case.case_id] = now + self._settings.enforcement_deletion_retry_seconds
                await self._examine(case)
        open_ids = {case.case_id for case in due}
        self._retry_at = {case_id: at for case_id, at in self._retry_at.items() if case_id in open_ids}

    async def _examine(self, case: Case) -> None:
        if self._settings.runtime != "simulator":
            await self._change(case, replace(case, state="plan", reason=NO_GUARDS), Evidence(0))
            return
        try:
            evidence = await self._gather(case)
            if evidence.account is not None:
                await self._enforce.apply_answers([evidence.account])
            skew = self._settings.enforcement_clock_skew_seconds_max
            objections = find_objections(case, evidence, skew_seconds_max=skew)
            if objections:
                await self._change(case, replace(case, state="frozen", reason="; ".join(objections)), evidence)
                return
            permit = await self._balance.ask_permit(case.key, case.negative_since_us, case.due_at_us)
            await self._carry_out(case, permit, evidence)
        except BalanceRefusalError as error:
            await self._change(case, replace(case, state="frozen", reason=str(error)), Evidence(0))
        except TransientFault as error:
            # Absence of an answer is never a reason to delete: the case is looked at again later.
            logger.warning("deletion.waits", case_id=case.case_id, error=str(error)[:500])

    async def _gather(self, case: Case) -> Evidence:
        """Ask for everything that could speak against it. Raises TransientFault where an answer is missing."""
        asked_at_us = self._enforce.clock.now_us()
        ends = await self._positions.load_ends()
        account = await self._balance.load_account(case.key)
        status = await self._balance.load_status()
        unseen = await self._positions.count_unseen(ends)
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

    async def _change(self, known: Case, changed: Case, evidence: Evidence) -> None:
        """Write a case's new state and reason under its account's lock, and tell it if it is news."""
        async with self._enforce.unit() as (connection, unit):
            scene = await unit.begin([known.key])
            cases = await load_cases(connection, [known.key])
            scene.add_cases(cases)
            current = _find_open(cases, known)
            if current is None or (current.state, current.reason) == (changed.state, changed.reason):
                return
            case = scene.change_case(replace(current, state=changed.state, reason=changed.reason))
            scene.messages.append(unit.make.case_event("deletion.frozen", case, case.reason))
            await unit.save(scene)
            await save_evidence(connection, case.case_id, asdict(evidence))
        metrics.DELETIONS_FROZEN.inc()
        logger.error("deletion.frozen", case_id=known.case_id, reason=changed.reason)

    async def _carry_out(self, known: Case, permit: PermitAnswer, evidence: Evidence) -> None:
        """Command the deletion of everything that the account has, one redemption per resource."""
        targets = await self._begin(known, permit, evidence)
        for target in targets:
            redemption = await self._balance.redeem(permit.permit_id, target.resource_id)
            commanded = await self._command(
                known, target, permit, redeemed_at_us=redemption.redeemed_at, permit_expires_us=redemption.expires_at
            )
            if not commanded:
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

    async def _command(
        self, known: Case, target: Target, permit: PermitAnswer, *, redeemed_at_us: int, permit_expires_us: int
    ) -> bool:
        """Append the command under the account's lock, if the case still stands and the breaker allows it."""
        async with self._enforce.unit() as (connection, unit):
            scene = await unit.begin([known.key])
            current = _find_open(await load_cases(connection, [known.key]), known)
            account = scene.accounts[known.key]
            if current is None or account.negative_since_us != known.negative_since_us:
                return False
            most = self._settings.enforcement_deletions_per_hour_max
            if not await take_allowance(connection, "deletions", unit.now_us, HOUR_US, 1, most):
                logger.error("deletion.breaker", case_id=known.case_id, deletions_per_hour_max=most)
                return False
            expiry_us = unit.now_us + self._settings.enforcement_deletion_expiry_seconds * SECOND_US
            expires_at_us = min(expiry_us, permit_expires_us)
            attempt = target.commands + 1
            order = DeleteOrder(current, target.resource_id, target.family, permit.permit_id, attempt, expires_at_us)
            scene.messages.append(unit.make.delete(order))
            scene.messages.append(unit.make.target_event("deletion.commanded", current, target.resource_id, attempt))
            await mark_commanded(
                connection,
                target,
                permit.permit_id,
                redeemed_at_us=redeemed_at_us,
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
