"""When a tenant's resources are deleted. Every doubt freezes; absence of data is never a reason to delete."""

from dataclasses import dataclass, replace
from typing import Literal

from services.enforcement.rules.account import Account, AccountKey
from shared.clock import SECOND_US, format_instant

CaseState = Literal["scheduled", "plan", "frozen", "carrying_out", "cancelled", "done"]


@dataclass(frozen=True, slots=True)
class Grace:
    """From below zero to deletion, and when between them to remind, in percents of it."""

    grace_seconds: int
    reminder_percents: tuple[int, ...] = (50, 90)


@dataclass(frozen=True, slots=True)
class Case:
    """One uninterrupted time below zero of one account, and what comes of it. `changes` counts its events.

    `remind_at_us` is when the next reminder is due, None after the last one.
    """

    key: AccountKey
    negative_since_us: int
    due_at_us: int
    remind_at_us: int | None = None
    state: CaseState = "scheduled"
    reason: str | None = None
    permit_id: str | None = None
    permit_expires_at_us: int | None = None
    reminded_at_us: int | None = None
    changes: int = 0

    @property
    def case_id(self) -> str:
        return name_case(self.key, self.negative_since_us)

    @property
    def is_open(self) -> bool:
        return self.state not in {"cancelled", "done"}


@dataclass(frozen=True, slots=True)
class CaseDecision:
    """A case that ends because the account was at or above zero, and one that begins; either may be absent."""

    cancel: Case | None = None
    schedule: Case | None = None


def name_case(key: AccountKey, negative_since_us: int) -> str:
    return f"{key.region}/{key.tenant_id}/{format_instant(negative_since_us)}"


def open_case(key: AccountKey, negative_since_us: int, grace: Grace, now_us: int) -> Case:
    """A case that begins at `negative_since_us` and is known since now: its opening says what older reminders would."""
    case = Case(key, negative_since_us, negative_since_us + grace.grace_seconds * SECOND_US)
    return replace(case, remind_at_us=_next_reminder_us(case, grace, now_us))


def reopen_case(case: Case, grace: Grace, now_us: int) -> Case:
    """A case that was done, for what its account got since: due a whole grace period after it is known."""
    again = Case(case.key, case.negative_since_us, now_us + grace.grace_seconds * SECOND_US, changes=case.changes)
    return replace(again, remind_at_us=_next_reminder_us(again, grace, now_us))


def follow_account(case: Case | None, account: Account, grace: Grace, now_us: int) -> CaseDecision:
    """What an account's newest saying means for its open case.

    `negative_since` alone decides: null cancels whatever the type of the event, another one proves a moment at or
    above zero (or a credit that restarts the time), so the old case ends and a new time begins.
    """
    since_us = account.negative_since_us
    if case is not None and case.is_open and case.negative_since_us == since_us:
        return CaseDecision()
    cancel = case if case is not None and case.is_open else None
    if since_us is None:
        return CaseDecision(cancel)
    return CaseDecision(cancel, open_case(account.key, since_us, grace, now_us))


def is_due(case: Case, now_us: int) -> bool:
    return case.is_open and now_us >= case.due_at_us


@dataclass(frozen=True, slots=True)
class Reminder:
    """A reminder to tell now: the instant that it was due names it; `case` is the case with its next one."""

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
    grace_us = case.due_at_us - case.negative_since_us
    return sorted(case.negative_since_us + grace_us * percent // 100 for percent in grace.reminder_percents)


def _next_reminder_us(case: Case, grace: Grace, now_us: int) -> int | None:
    return next((at_us for at_us in _reminders_us(case, grace) if at_us > now_us), None)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen when a due case was examined. None is "not known" and freezes."""

    asked_at_us: int
    account: Account | None = None  # balance's fresh answer
    known_version: int = 0  # the newest version that this service had seen before
    balance_now_us: int | None = None
    stream_stopped: str | None = None  # why balance stopped posting the account's stream
    charges_waiting: int | None = None  # batches that balance received and could not post yet
    unseen_records: int | None = None  # of our own topics, published before the question and not applied yet
    halted: str | None = None  # why an operator must confirm first


def find_objections(case: Case, evidence: Evidence, *, skew_seconds_max: int) -> tuple[str, ...]:
    """Every reason not to delete now; none means that balance may be asked for a permit."""
    found = [] if evidence.halted is None else [f"deletions wait for an operator: {evidence.halted}"]
    if not is_due(case, evidence.asked_at_us):
        found.append("the case is not due")
    objection = _object_to_account(case, evidence)
    if objection is not None:
        found.append(objection)
    if evidence.balance_now_us is None:
        found.append("balance did not tell its time")
    elif abs(evidence.balance_now_us - evidence.asked_at_us) > skew_seconds_max * SECOND_US:
        found.append("the clocks of balance and enforcement differ")
    if evidence.stream_stopped is not None:
        found.append(f"balance stopped posting the account's charges: {evidence.stream_stopped}")
    if evidence.charges_waiting is None or evidence.charges_waiting > 0:
        found.append("charges wait to be posted")
    if evidence.unseen_records is None or evidence.unseen_records > 0:
        found.append("published events are not applied yet")
    return tuple(found)


def _object_to_account(case: Case, evidence: Evidence) -> str | None:
    account = evidence.account
    if account is None:
        return "balance does not know the account or is out of reach"
    if account.version < evidence.known_version:
        return "balance answered with an older version than it had published"
    if not account.is_negative:
        return "the account is not below zero"
    if account.negative_since_us != case.negative_since_us:
        return "the account is below zero since another instant"
    return None
