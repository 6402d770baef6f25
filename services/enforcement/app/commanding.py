"""The last two steps of a deletion, each one transaction under the account's lock."""

from dataclasses import asdict, replace

from services.enforcement import metrics
from services.enforcement.app.clock_guard import ClockGuard
from services.enforcement.app.enforce import Enforce
from services.enforcement.app.unit import Unit
from services.enforcement.clients.balance import PermitAnswer, RedemptionAnswer
from services.enforcement.messages import DeleteOrder
from services.enforcement.rules.deletion import Case
from services.enforcement.rules.guards import Evidence, Order, find_command_objection
from services.enforcement.rules.stops import next_attempt_us
from services.enforcement.store.breakers import take_allowance
from services.enforcement.store.cases import load_cases, save_evidence
from services.enforcement.store.halts import load_halts_of
from services.enforcement.store.resources import load_live
from services.enforcement.store.targets import (
    Target,
    hold_back,
    insert_targets,
    load_targets,
    lock_target,
    mark_commanded,
)
from shared.clock import HOUR_US, SECOND_US
from shared.db import Connection
from shared.log import get_logger

logger = get_logger(__name__)


class BreakerError(Exception):
    """More would be deleted in an hour than the region allows."""


class Commanding:
    """Begins a case and gives its commands."""

    def __init__(self, enforce: Enforce, guard: ClockGuard) -> None:
        self._enforce = enforce
        self._settings = enforce.settings
        self._guard = guard

    async def begin(self, known: Case, permit: PermitAnswer, evidence: Evidence) -> list[Target]:
        """Note the permit, the evidence and the resources; return those whose command is due.

        None are where another process has changed the case since it was claimed: what it found is newer.
        """
        async with self._enforce.unit() as (connection, unit):
            scene = await unit.begin([known.key])
            cases = await load_cases(connection, [known.key])
            scene.add_cases(cases)
            current = find_open(cases, known)
            if current is None or _found(current) != _found(known):
                logger.info("deletion.not_begun", case_id=known.case_id, why="the case was changed meanwhile")
                return []
            case = scene.change_case(
                replace(
                    current,
                    state="carrying_out",
                    reason=None,
                    permit_id=permit.permit_id,
                    permit_expires_at_us=permit.expires_at,
                    deletable_at_us=known.deletable_at_us,
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
        return [target for target in targets if target.is_due(unit.now_us)]

    async def command(self, known: Case, resource_id: str, redemption: RedemptionAnswer, evidence_from_us: int) -> bool:
        """Append one command, if everything that is locked now still agrees; return whether the case stands.

        Raises BreakerError, and TransientFault if the clock jumped.
        """
        async with self._enforce.unit() as (connection, unit):
            scene = await unit.begin([known.key])
            current = find_open(await load_cases(connection, [known.key]), known)
            target = await lock_target(connection, known.case_id, resource_id)
            self._guard.require_no_jump()
            order = Order(
                case=current,
                known=known,
                account=scene.accounts[known.key],
                is_done=target is None or target.done_at_us is not None,
                next_command_at_us=None if target is None else target.next_command_at_us,
                evidence_from_us=evidence_from_us,
                permit_id=redemption.permit_id,
                redemption_expires_at_us=redemption.expires_at,
                halts=await load_halts_of(connection, known.key.region),
                # Not the unit's: the locks can have been waited for.
                now_us=self._enforce.clock.now_us(),
            )
            objection = find_command_objection(order)
            if objection is not None or current is None or target is None:
                why = None if objection is None else objection.reason
                logger.info("deletion.not_commanded", case_id=known.case_id, resource_id=resource_id, why=why)
                return objection is not None and objection.of_target
            if not await self._take_allowance(connection, unit, target):
                return True
            sent_at_us = await unit.later_us()
            expires_at_us = min(
                sent_at_us + self._settings.enforcement_deletion_expiry_seconds * SECOND_US, redemption.expires_at
            )
            attempt = target.commands + 1
            delete = DeleteOrder(
                current, resource_id, target.family, redemption.permit_id, attempt, sent_at_us, expires_at_us
            )
            scene.messages.append(unit.make.delete(delete))
            scene.messages.append(unit.make.target_event("deletion.commanded", current, resource_id, attempt))
            await mark_commanded(
                connection,
                target,
                redemption.permit_id,
                redeemed_at_us=redemption.redeemed_at,
                now_us=unit.now_us,
                expires_at_us=expires_at_us,
                next_command_at_us=max(
                    expires_at_us, next_attempt_us(unit.now_us, attempt, self._settings.deletion_backoff)
                ),
            )
            await unit.save(scene)
        metrics.DELETE_COMMANDS.inc()
        logger.warning("deletion.commanded", case_id=known.case_id, resource_id=resource_id, attempt=attempt)
        return True

    async def _take_allowance(self, connection: Connection, unit: Unit, target: Target) -> bool:
        """Whether the region's breaker lets the command through; first commands and repeats use allowances apart.

        A repeat without an allowance waits for its next turn. Raises BreakerError for a first command.
        """
        region = target.account.region
        if target.commands == 0:
            most = self._settings.enforcement_deletions_per_hour_max
            if not await take_allowance(connection, f"deletions/{region}", unit.now_us, HOUR_US, most, 1):
                raise BreakerError(f"the breaker allows {most} deletions an hour in {region}")
            return True
        most = self._settings.enforcement_deletion_repeats_per_hour_max
        if await take_allowance(connection, f"deletion_repeats/{region}", unit.now_us, HOUR_US, most, 1):
            return True
        await hold_back(
            connection, target, next_attempt_us(unit.now_us, target.commands, self._settings.deletion_backoff)
        )
        unit.on_commit(metrics.DELETION_REPEATS_HELD_BACK.inc)
        return False


def _found(case: Case) -> tuple[str, str | None, str | None]:
    """What examining a case came to."""
    return case.state, case.reason, case.permit_id


def find_open(cases: list[Case], known: Case) -> Case | None:
    """The case as it is now, if it still stands."""
    return next((case for case in cases if case.case_id == known.case_id and case.is_open), None)
