"""What comes by the passing of time alone: reminders of open cases, and deletions that are given up."""

from services.enforcement import metrics
from services.enforcement.app.enforce import BATCH, Enforce
from services.enforcement.rules.deletion import remind
from services.enforcement.store.cases import load_case, load_cases, load_cases_to_remind
from services.enforcement.store.targets import load_targets_to_abandon, mark_abandoned
from shared.clock import SECOND_US
from shared.log import get_logger

logger = get_logger(__name__)

ABANDONED = "the account was at or above zero before the deletion was confirmed, and its command has expired"


class Timers:
    """Each pass is one transaction of up to BATCH cases or targets; every decision is made under the account's lock."""

    def __init__(self, enforce: Enforce) -> None:
        self._enforce = enforce

    async def remind_due(self) -> int:
        """Tell the reminders that are due; answer how many cases were looked at."""
        settings = self._enforce.settings
        async with self._enforce.unit() as (connection, unit):
            due = await load_cases_to_remind(connection, unit.now_us, BATCH)
            if not due:
                return 0
            keys = sorted({case.key for case in due})
            scene = await unit.begin(keys)
            # Read again: until the lock was there, any of them could have been cancelled or told.
            for case in await load_cases(connection, keys):
                reminder = remind(case, settings.grace_of(case.key.region), unit.now_us)
                if reminder is not None:
                    told = scene.change_case(reminder.case)
                    scene.messages.append(unit.make.reminder(told, reminder.planned_at_us))
                    unit.on_commit(metrics.REMINDERS.inc)
            await unit.save(scene)
        return len(due)

    async def abandon_expired(self) -> int:
        """Give up deletions whose case was cancelled and whose command nobody carried out; answer how many were seen.

        The resource lives on, and whoever believed it gone must hear that.
        """
        async with self._enforce.unit() as (connection, unit):
            before_us = unit.now_us - self._enforce.settings.enforcement_abandon_seconds * SECOND_US
            expired = await load_targets_to_abandon(connection, before_us, BATCH)
            if not expired:
                return 0
            scene = await unit.begin(sorted({target.account for target in expired}))
            for target in expired:
                case = await load_case(connection, target.case_id)
                if case is None or case.state != "cancelled":
                    continue
                if not await mark_abandoned(connection, target, unit.now_us):
                    continue
                event = unit.make.target_event(
                    "deletion.abandoned", case, target.resource_id, target.commands, ABANDONED
                )
                scene.messages.append(event)
                unit.on_commit(metrics.DELETIONS_ABANDONED.inc)
                logger.warning("deletion.abandoned", case_id=case.case_id, resource_id=target.resource_id)
            await unit.save(scene)
        return len(expired)
