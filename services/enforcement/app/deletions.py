"""Due deletion cases: examined with fresh evidence, and carried out resource by resource under a live permit.

Safe to kill anywhere and to run in several processes: a case is claimed for the time that it is looked at, a
redemption is idempotent by (permit, resource), and each resource is loaded again under its account's lock right before
its command, which leaves with the transaction that notes it. What is not known freezes the case.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import asdict, replace

from services.enforcement import metrics
from services.enforcement.app.clock_guard import ClockGuard
from services.enforcement.app.commanding import BreakerError, Commanding, find_open
from services.enforcement.app.enforce import Enforce
from services.enforcement.app.survey import Neighbours, Survey
from services.enforcement.clients.asking import OutOfReachError, RefusedError
from services.enforcement.positions import Positions
from services.enforcement.rules.deletion import Case
from services.enforcement.rules.guards import (
    Evidence,
    Objection,
    bounds_of,
    describe,
    find_objections,
    follow_deletable,
)
from services.enforcement.store.cases import claim_due_case, forget_ended_cases, load_cases, pause_case, save_evidence
from services.enforcement.store.doubts import note_doubt
from services.enforcement.store.resources import load_live
from services.enforcement.store.targets import Target, insert_targets, load_targets
from shared.clock import SECOND_US
from shared.db import is_transient, transaction
from shared.errors import TransientFault
from shared.log import get_logger

logger = get_logger(__name__)

# How long a claim stands if its process says nothing more: a frozen one holds a case up no longer than this.
LEASE_SECONDS = 10.0
CASES_MAX = 50
# So many resources that are somebody else's are named in a case's reason.
NAMED_MAX = 5
# Refusals of balance's after which a case is as deletable as before, but for orders and for time.
OF_ORDERS_OR_TIME = frozenset({"pending-order", "ordered-since", "permit-expired", "not-due"})
# The one runtime for which deletions are carried out and not only planned.
CARRYING_OUT = "simulator"
NO_GUARDS = "guards are not installed for this runtime: nothing is deleted, this is a plan"


class Deletions:
    """One case at a time; several processes share the cases."""

    def __init__(self, enforce: Enforce, neighbours: Neighbours, positions: Positions) -> None:
        self._enforce = enforce
        self._settings = enforce.settings
        self._balance = neighbours.balance
        self._metering = neighbours.metering
        self.guard = ClockGuard(enforce.pool, enforce.clock, enforce.settings)
        self.survey = Survey(enforce, neighbours, positions)
        self._commanding = Commanding(enforce, self.guard)

    async def run(self) -> None:
        """Examine due cases until cancelled."""
        await self.guard.check_start()
        while True:
            await self.guard.check()
            await self.examine_due()
            await asyncio.sleep(self._settings.enforcement_deletion_poll_seconds)

    async def examine_due(self) -> None:
        """Examine the due cases whose pause is over and that no other process looks at."""
        async with transaction(self._enforce.pool) as connection:
            await forget_ended_cases(connection)
        for _ in range(CASES_MAX):
            async with transaction(self._enforce.pool) as connection:
                now_us, carries_out = self._enforce.clock.now_us(), self._settings.runtime == CARRYING_OUT
                claimed = await claim_due_case(connection, now_us, LEASE_SECONDS, with_plans=carries_out)
            if claimed is None:
                return
            case, looks = claimed
            is_news = False
            try:
                is_news = await self._isolated(case)
            finally:
                async with transaction(self._enforce.pool) as connection:
                    await pause_case(connection, case.case_id, 0 if is_news else looks + 1, self._pause(looks))

    def _pause(self, looks: int) -> float:
        """Seconds until the next look: they double while nothing changes, up to their limit."""
        first, most = (
            self._settings.enforcement_deletion_retry_seconds,
            self._settings.enforcement_deletion_retry_seconds_max,
        )
        return min(first * math.pow(2, min(looks, 20)), max(first, most))

    async def _isolated(self, case: Case) -> bool:
        """Examine a case; one that can't be examined is set aside, and one without an answer waits."""
        try:
            return bool(
                await self._enforce.isolation.apply("deletion", [case], lambda item: item.case_id, self._examine_all)
            )
        except TransientFault as error:
            # Absence of an answer is never a reason to delete: the case is looked at again later.
            cause = "out-of-reach" if isinstance(error, OutOfReachError) else "transient"
            await self._doubt(case, cause, str(error)[:500])
            return False

    async def _examine_all(self, cases: Sequence[Case]) -> int:
        return sum([await self.examine(case) for case in cases])

    async def examine(self, case: Case) -> bool:
        """Delete what is due of a case, or freeze it; return whether anything changed."""
        if self._settings.runtime != CARRYING_OUT:
            return await self._plan(case)
        self.guard.require_no_jump()
        if await self._has_nothing_due(case):
            return False
        evidence = await self.survey.gather(case)
        if evidence.account is not None:
            await self._enforce.apply_answers([evidence.account])
        settings = self._settings
        bounds = bounds_of(settings.enforcement_clock_skew_seconds_max, settings.enforcement_lag_seconds_max)
        case = follow_deletable(case, evidence, bounds)
        objections = find_objections(case, evidence, bounds)
        if objections:
            return await self._freeze(case, objections, evidence)
        try:
            permit = await self._balance.ask_permit(case.key, case.negative_since_us, self._permit_due_us(case))
            targets = await self._commanding.begin(case, permit, evidence)
            return await self._carry_out(case, permit.permit_id, targets, evidence.began_at_us)
        except RefusedError as error:
            if error.code not in OF_ORDERS_OR_TIME:
                case = replace(case, deletable_at_us=None)
            return await self._freeze(case, [Objection("permit", str(error), "case")], evidence)
        except BreakerError as error:
            case = replace(case, deletable_at_us=None)
            return await self._freeze(case, [Objection("breaker", str(error), "region")], evidence)

    def _permit_due_us(self, case: Case) -> int:
        """What balance counts the two hours of untried orders from, as we do.

        A region's grace period may have become longer than it was when the case began: balance goes by today's.
        """
        grace_us = self._settings.grace_of(case.key.region).grace_seconds * SECOND_US
        return max(case.due_at_us, case.negative_since_us + grace_us, case.deletable_at_us or 0)

    async def _carry_out(self, case: Case, permit_id: str, targets: Sequence[Target], evidence_from_us: int) -> bool:
        """Command resource by resource, each redeemed right before; one that fails holds up no other.

        What metering charges nobody for, or somebody else, is not deleted for this account's debts: two tenants may
        have claimed it, and this service have heard them in another order.
        """
        failures: list[Exception] = []
        others: list[str] = []
        for resource_id in (target.resource_id for target in targets):
            try:
                if not await self._metering.is_owner(case.key, resource_id):
                    others.append(resource_id)
                    continue
                redemption = await self._balance.redeem(permit_id, resource_id)
                if not await self._commanding.command(case, resource_id, redemption, evidence_from_us):
                    break
            except (RefusedError, BreakerError):
                raise
            except Exception as error:
                if is_transient(error):
                    raise
                failures.append(error)
        if failures:
            raise failures[0]
        if others:
            raise RefusedError(f"metering does not charge the account for {', '.join(others[:NAMED_MAX])}")
        return True

    async def _has_nothing_due(self, case: Case) -> bool:
        """Whether everything that the account has was commanded, and no repeat is due: nobody is asked anything."""
        if case.state != "carrying_out":
            return False
        async with transaction(self._enforce.pool) as connection:
            live = {item.key.resource_id for item in await load_live(connection, case.key)}
            targets = await load_targets(connection, case.case_id)
        now_us = self._enforce.clock.now_us()
        known = {target.resource_id for target in targets}
        return bool(live) and live <= known and not any(target.is_due(now_us) for target in targets)

    async def _plan(self, known: Case) -> bool:
        """What would be deleted now, for people to read; no event is published, nobody is paged."""
        async with self._enforce.unit() as (connection, unit):
            scene = await unit.begin([known.key])
            current = find_open(await load_cases(connection, [known.key]), known)
            if current is None:
                return False
            scene.change_case(replace(current, state="plan", reason=NO_GUARDS))
            await unit.save(scene)
            await insert_targets(connection, current.case_id, await load_live(connection, known.key))
        logger.warning("deletion.planned", case_id=known.case_id)
        return True

    async def _freeze(self, known: Case, objections: Sequence[Objection], evidence: Evidence) -> bool:
        """Note under the account's lock why a case is not carried out, and publish it if it is news."""
        reason = describe(objections)
        for objection in objections:
            if objection.scope == "region":
                await self._doubt(known, objection.guard, objection.reason)
        async with self._enforce.unit() as (connection, unit):
            scene = await unit.begin([known.key])
            current = find_open(await load_cases(connection, [known.key]), known)
            if current is None:
                return False
            is_news = (current.state, current.reason) != ("frozen", reason)
            if not is_news and current.deletable_at_us == known.deletable_at_us:
                return False
            changed = replace(current, state="frozen", reason=reason, deletable_at_us=known.deletable_at_us)
            case = scene.change_case(changed)
            if is_news:
                scene.messages.append(unit.make.case_event("deletion.frozen", case, reason))
            await unit.save(scene)
            await save_evidence(connection, case.case_id, asdict(evidence))
        if not is_news:
            return False
        metrics.DELETIONS_FROZEN.inc()
        # A shared cause has its own line, once per region; the case's own reason pages when it is new.
        own = describe([objection for objection in objections if objection.scope == "case"])
        log = logger.error if own and own not in (current.reason or "") else logger.info
        log("deletion.frozen", case_id=known.case_id, reason=reason)
        return True

    async def _doubt(self, case: Case, cause: str, reason: str) -> None:
        """Page once per region for what holds up all of its cases."""
        async with transaction(self._enforce.pool) as connection:
            is_news = await note_doubt(connection, case.key.region, cause)
        if is_news:
            metrics.DELETIONS_HELD_UP.labels(case.key.region, cause).inc()
            logger.error("deletions.held_up", region=case.key.region, cause=cause, reason=reason)
