"""What comes by the passing of time alone: reminders of open cases, and deletions that are given up."""

from collections.abc import Sequence

from services.enforcement import metrics
from services.enforcement.app.enforce import BATCH, Enforce
from services.enforcement.rules.deletion import Case, remind
from services.enforcement.store.cases import load_case, load_cases, load_cases_to_remind
from services.enforcement.store.targets import Target, load_targets_to_abandon, mark_abandoned
from shared.clock import SECOND_US
from shared.db import transaction
from shared.log import get_logger

logger = get_logger(__name__)


class Timers:
    """Each pass takes up to BATCH cases or targets; every decision is made again under the account's lock."""

    def __init__(self, enforce: Enforce) -> None:
        self._enforce = enforce

    async def remind_due(self) -> int:
        """Publish the reminders that are due; return how many."""
        async with transaction(self._enforce.pool) as connection:
            due = await load_cases_to_remind(connection, self._enforce.clock.now_us(), BATCH)
        return await self._enforce.isolation.apply("reminder", due, lambda case: case.case_id, self._remind)

    async def _remind(self, due: Sequence[Case]) -> int:
        sent = 0
        async with self._enforce.unit() as (connection, unit):
            keys = sorted({case.key for case in due})
            scene = await unit.begin(keys)
            # Read again: until the lock was there, any of them could have been cancelled or reminded of.
            for case in await load_cases(connection, keys):
                reminder = remind(case, self._enforce.settings.grace_of(case.key.region), unit.now_us)
                if reminder is not None:
                    changed = scene.change_case(reminder.case)
                    scene.messages.append(unit.make.reminder(changed, reminder.planned_at_us))
                    unit.on_commit(metrics.REMINDERS.inc)
                    sent += 1
            await unit.save(scene)
        return sent

    async def abandon_expired(self) -> int:
        """Give up deletions whose case was cancelled and whose command nobody carried out; return how many.

        The resource lives on, and whoever believed it gone must hear that.
        """
        now_us = self._enforce.clock.now_us()
        before_us = now_us - self._enforce.settings.enforcement_abandon_seconds * SECOND_US
        async with transaction(self._enforce.pool) as connection:
            expired = await load_targets_to_abandon(connection, before_us, now_us, BATCH)
        return await self._enforce.isolation.apply("abandonment", expired, _name_target, self._abandon)

    async def _abandon(self, expired: Sequence[Target]) -> int:
        given_up = 0
        async with self._enforce.unit() as (connection, unit):
            scene = await unit.begin(sorted({target.account for target in expired}))
            for target in expired:
                case = await load_case(connection, target.case_id)
                if case is None or case.state != "cancelled":
                    continue
                if not await mark_abandoned(connection, target, unit.now_us):
                    continue
                reason = f"the case ended before the deletion was confirmed, and its command has expired: {case.reason}"
                event = unit.make.target_event("deletion.abandoned", case, target.resource_id, target.commands, reason)
                scene.messages.append(event)
                unit.on_commit(metrics.DELETIONS_ABANDONED.inc)
                logger.warning("deletion.abandoned", case_id=case.case_id, resource_id=target.resource_id)
                given_up += 1
            await unit.save(scene)
        return given_up


def _name_target(target: Target) -> str:
    return f"{target.case_id} {target.resource_id}"
