"""The grace timer through every interleaving of charge, credit and correction, by the rules of both services.

Balance says what it says by its own rules, enforcement hears it late, repeated, in another order or not at all, and
nothing is commanded that a plain enumeration of the account's entries forbids.
"""

from dataclasses import replace

import pytest
from hypothesis import example, given

from services.balance.rules import crossing
from services.balance.rules.crossing import Movement, Standing, cross
from services.balance.rules.permits import Debtor, Permit, check_grant, check_redemption
from services.enforcement.rules import deletion
from services.enforcement.rules.account import Account, AccountKey, learn_account
from services.enforcement.rules.deletion import Case, CaseDecision, Grace, follow_account, is_due, remind
from services.enforcement.rules.guards import (
    BalanceSeen,
    Evidence,
    MeteringSeen,
    PaymentsSeen,
    bounds_of,
    find_objections,
)
from shared.clock import MINUTE_US, SECOND_US
from shared.errors import Refusal
from tests.unit.enforcement.debt_story import GRACE_US, STORIES, Attempt, Entry, Hearing, Postings

ACME = AccountKey("vn", "acme")
Story = list[Entry | Hearing | Attempt]
GRACE = Grace(GRACE_US // SECOND_US)


class Pair:
    """Balance's account and enforcement's picture of it, at one clock; `commanded` notes each deletion's instant."""

    def __init__(self) -> None:
        self.now_us = 1_000 * GRACE_US
        self.standing = Standing()
        self.credits = 0
        self.postings = Postings()
        self.told: list[Account] = []
        self.known = Account(ACME)
        self.case: Case | None = None
        self.commanded: list[int] = []
        self.reminded: list[tuple[str, int]] = []

    def post(self, entry: Entry) -> None:
        self.now_us += entry.pause_us
        self.postings.add(self.now_us, entry.delta_micros)
        credit_id = "credit" if entry.kind == "credit" else None
        self.credits += entry.delta_micros > 0
        self.standing, told = cross(
            self.standing, [Movement(entry.delta_micros, credit_id)], 0, self.now_us, low_cooldown_us=0
        )
        self.told += [_account(item.standing) for item in told]

    def hear(self, index: int | None) -> None:
        """Learn as a transaction of enforcement does."""
        if index is None:
            seen = _account(self.standing)
        elif index < len(self.told):
            seen = self.told[index]
        else:
            return
        before = self.known
        if learn_account(before, seen) is not seen:
            return
        self.known = seen
        decision = deletion.follow_account(self.case, before, seen, GRACE, self.now_us)
        if decision.cancel is not None:
            self.case = None
        if decision.schedule is not None:
            self.case = decision.schedule

    def attempt(self, attempt: Attempt) -> None:
        self.now_us += attempt.pause_us
        self._remind()
        case = self.case
        if case is None or not is_due(case, self.now_us):
            return
        if find_objections(case, self._look(), bounds_of(60, 300)):
            return
        try:
            check_grant(self._debtor(), case.negative_since_us, case.due_at_us, GRACE_US, self.now_us)
            permit = Permit("permit", 1, case.negative_since_us, self.credits, 0, self.now_us + MINUTE_US)
            if attempt.between is not None:
                self.post(attempt.between)
            check_redemption(permit, self._debtor(), self.now_us, redeemed=False)
        except Refusal:
            return
        if self.known.is_negative and self.known.negative_since_us == case.negative_since_us:
            self.commanded.append(self.now_us)

    def _look(self) -> Evidence:
        """Evidence in which everything but the account agrees."""
        return Evidence(
            self.now_us,
            self.now_us,
            _account(self.standing),
            self.known.version,
            self.standing.balance_micros,
            BalanceSeen(self.now_us, 0, None),
            MeteringSeen(self.now_us, 0, self.now_us, None),
            PaymentsSeen(self.now_us, ()),
            0,
            held_back=(),
            unknown=(),
        )

    def _remind(self) -> None:
        reminder = None if self.case is None else remind(self.case, GRACE, self.now_us)
        if reminder is not None:
            self.case = reminder.case
            assert self.now_us < self.case.due_at_us
            self.reminded.append((self.case.case_id, reminder.planned_at_us))

    def _debtor(self) -> Debtor:
        balance_micros = self.standing.balance_micros
        own_use_micros = max(balance_micros, self.postings.balance_at(self.now_us - GRACE_US))
        return Debtor(balance_micros, self.standing.negative_since_us, self.credits, 0, own_use_micros)


def _account(standing: Standing) -> Account:
    return Account(ACME, standing.account_version, standing.state, standing.balance_micros, standing.negative_since_us)


def play(story: Story) -> Pair:
    """Play a story; every command is held against the enumeration when it is given."""
    pair = Pair()
    for step in story:
        before = len(pair.commanded)
        if isinstance(step, Entry):
            pair.post(step)
        elif isinstance(step, Hearing):
            pair.hear(step.index)
        else:
            pair.attempt(step)
        if len(pair.commanded) > before:
            assert pair.postings.may_delete(pair.now_us), "deleted although it was not below zero for the grace period"
    return pair


CHARGE = Entry("charge", 2, 0)
# One shaves a favour off the debt and leaves it below zero; one pays it and falls again.
HEAR = Hearing(None)
HALF, AGAIN = GRACE_US // 2, Attempt(GRACE_US // 2, None)
FAVOUR: Story = [CHARGE, HEAR, Entry("credit correction", 1, HALF), HEAR, AGAIN]
RELAPSE: Story = [CHARGE, HEAR, Entry("credit", 2, HALF), CHARGE, HEAR, AGAIN]


@given(STORIES)
@example(FAVOUR)
@example(RELAPSE)
def test_nothing_is_deleted_that_was_not_below_zero_for_the_whole_grace_period(
    story: Story,
) -> None:
    pair = play(story)
    assert len(pair.reminded) == len(set(pair.reminded)), "a reminder was told twice"


@given(STORIES)
def test_who_is_below_zero_for_a_whole_grace_period_after_it_was_heard_is_deleted(
    story: Story,
) -> None:
    """The other half: the timer does not lose a debtor either."""
    pair = play(story)
    pair.hear(None)
    is_debtor = pair.standing.balance_micros < 0
    before = len(pair.commanded)
    pair.attempt(Attempt(GRACE_US, None))
    assert (len(pair.commanded) > before) == is_debtor == pair.postings.may_delete(pair.now_us)


def _keep_first_since(case: Case | None, before: Account, seen: Account, grace: Grace, now_us: int) -> CaseDecision:
    """A planted bug: only null cancels, so a time that began again goes on with the old one."""
    if case is not None and seen.negative_since_us is not None:
        return CaseDecision()
    return follow_account(case, before, seen, grace, now_us)


def test_the_enumeration_sees_a_timer_that_does_not_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With both guards planted away that would each have caught it, the property fails: it is not empty."""
    monkeypatch.setattr(deletion, "follow_account", _keep_first_since)
    for story in (FAVOUR, RELAPSE):
        assert not play(story).commanded, "balance's answer still speaks against it"
    monkeypatch.setattr(crossing, "_move", _move_without_restart)
    with pytest.raises(AssertionError, match="not below zero for the grace period"):
        play(FAVOUR)


_move = crossing._move


def _move_without_restart(standing: Standing, movement: Movement, now_us: int) -> tuple[Standing, list[str]]:
    """A planted bug: a favour that leaves the account below zero leaves its time alone."""
    moved, kinds = _move(standing, movement, now_us)
    if standing.balance_micros < 0 and moved.balance_micros < 0:
        return replace(moved, negative_since_us=standing.negative_since_us), list(kinds)
    return moved, list(kinds)
