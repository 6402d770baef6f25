"""Deletion cases: when they open and end, and when they remind. When they are carried out: `rules/guards.py`."""

from dataclasses import dataclass, replace
from typing import Literal

from services.enforcement.rules.account import Account, AccountKey
from shared.clock import MINUTE_US, SECOND_US, format_instant

# How much later than balance we may hear of a debt and still count from its instant: polls, relays, a restart.
HEARD_LATE_US = MINUTE_US
CaseState = Literal["scheduled", "plan", "frozen", "carrying_out", "cancelled", "done"]


@dataclass(frozen=True, slots=True)
class Grace:
    """From below zero to deletion, and when between them to remind, in percents of it."""

    grace_seconds: int
    reminder_percents: tuple[int, ...] = (50, 90)


@dataclass(frozen=True, slots=True)
class Case:
    """One uninterrupted time below zero of one account, and what comes of it. `changes` counts its events.

    The grace period runs from `began_at_us` to `due_at_us`. `remind_at_us` is when the next reminder is due, None after
    the last one. Since `deletable_at_us` nothing but orders that nobody tried to pay stands in its way.
    """

    key: AccountKey
    negative_since_us: int
    began_at_us: int
    due_at_us: int
    remind_at_us: int | None = None
    state: CaseState = "scheduled"
    reason: str | None = None
    permit_id: str | None = None
    permit_expires_at_us: int | None = None
    reminded_at_us: int | None = None
    changes: int = 0
    deletable_at_us: int | None = None

    @property
    def case_id(self) -> str:
        return name_case(self.key, self.negative_since_us)

    @property
    def is_open(self) -> bool:
        return self.state not in {"cancelled", "done"}


@dataclass(frozen=True, slots=True)
class CaseDecision:
    """A case that ends, with the reason in it, and one that begins; either may be absent."""

    cancel: Case | None = None
    schedule: Case | None = None


def name_case(key: AccountKey, negative_since_us: int) -> str:
    return f"{key.region}/{key.tenant_id}/{format_instant(negative_since_us)}"


def open_case(key: AccountKey, negative_since_us: int, grace: Grace, now_us: int) -> Case:
    """A case of an account that is below zero since `negative_since_us`, as balance's clock says, and is known now.

    Its opening says what older reminders would. An instant from long before it was heard of is nobody's proof: that
    clock may have been wrong, and nobody could warn the customer. Then the grace period begins now.
    """
    is_late = now_us - negative_since_us > HEARD_LATE_US
    return _begin(Case(key, negative_since_us, now_us if is_late else negative_since_us, 0), grace, now_us)


def reopen_case(case: Case, grace: Grace, now_us: int) -> Case:
    """A case that was done, for what its account got since: it begins now, with a whole grace period and reminders."""
    return _begin(Case(case.key, case.negative_since_us, now_us, 0, changes=case.changes), grace, now_us)


def _begin(case: Case, grace: Grace, now_us: int) -> Case:
    case = replace(case, due_at_us=case.began_at_us + grace.grace_seconds * SECOND_US)
    return replace(case, remind_at_us=_next_reminder_us(case, grace, now_us))


def follow_account(case: Case | None, before: Account, seen: Account, grace: Grace, now_us: int) -> CaseDecision:
    """What an account's newest state means for its open case; `before` is the one known until now.

    `negative_since` alone decides: null cancels whatever the type of the event, another one proves a moment at or
    above zero (or a credit that restarts the time), so the old case ends and a new time begins.
    """
    since_us = seen.negative_since_us
    if case is not None and case.is_open and case.negative_since_us == since_us:
        return CaseDecision()
    cancel = None
    if case is not None and case.is_open:
        cancel = replace(case, state="cancelled", reason=explain_end(case, before, seen))
    if since_us is None:
        return CaseDecision(cancel)
    return CaseDecision(cancel, open_case(seen.key, since_us, grace, now_us))


def explain_end(case: Case, before: Account, seen: Account) -> str:
    """Why a case ends, as far as balance's states prove it.

    Balance raises the version with every crossing of zero. Two states below zero with consecutive versions have no
    crossing between them, so only a correction or adjustment in the customer's favour can have restarted the time.
    """
    at = f"the balance is {seen.balance_micros} micros"
    since_us = seen.negative_since_us
    if since_us is None:
        cause = f"credit {seen.credited}" if seen.credited is not None else "the account is at or above zero"
        return f"{cause}; {at}" if seen.balance_micros >= 0 else f"balance ended the time below zero; {at}"
    consecutive = before.negative_since_us == case.negative_since_us and seen.version == before.version + 1
    if consecutive and before.is_negative and seen.is_negative:
        return f"a correction in the customer's favour restarted the time at {format_instant(since_us)}; {at}"
    return (
        f"the account is below zero since {format_instant(since_us)}: before that it was at or above zero, "
        f"or a correction in the customer's favour restarted the time; {at}"
    )


def is_due(case: Case, now_us: int) -> bool:
    return case.is_open and now_us >= case.due_at_us


@dataclass(frozen=True, slots=True)
class Reminder:
    """A reminder to send now: the instant that it was due names it; `case` is the case with its next one."""

    planned_at_us: int
    case: Case


def remind(case: Case, grace: Grace, now_us: int) -> Reminder | None:
    """The reminder that is due, if any: of several that were missed the latest alone.

    None for a case that has ended, and from the due time on: then the deletion itself speaks.
    """
    planned_us = case.remind_at_us
    if not case.is_open or planned_us is None or not planned_us <= now_us < case.due_at_us:
        return None
    latest_us = max([planned_us, *(at_us for at_us in _reminders_us(case, grace) if at_us <= now_us)])
    return Reminder(
        latest_us, replace(case, reminded_at_us=now_us, remind_at_us=_next_reminder_us(case, grace, now_us))
    )


def _reminders_us(case: Case, grace: Grace) -> list[int]:
    """When to remind, by the case's own grace period: a changed setting does not move a case that is open."""
    grace_us = case.due_at_us - case.began_at_us
    return sorted(case.began_at_us + grace_us * percent // 100 for percent in grace.reminder_percents)


def _next_reminder_us(case: Case, grace: Grace, now_us: int) -> int | None:
    return next((at_us for at_us in _reminders_us(case, grace) if at_us > now_us), None)
