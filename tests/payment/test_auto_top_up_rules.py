"""The card is never charged more often, or more, than the customer agreed to."""

import itertools
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.payment.rules.auto_top_up import (
    Attempt,
    AttemptState,
    AutoTopUp,
    Charge,
    check_agreement,
    decide_attempt,
    decide_suspension,
)
from shared.clock import DAY_US, HOUR_US, MINUTE_US, from_us, parse_instant
from shared.errors import Refusal

UNIT = 10_000  # a cent
MINIMUM = 500_000
MAXIMUM = 10**12
AGREED = AutoTopUp(
    threshold_micros=5_000_000, target_micros=20_000_000, daily_cap_micros=40_000_000, monthly_cap_micros=100_000_000
)
NOW_US = parse_instant("2026-11-24T10:00:00Z")


def decide(balance_micros: int, *attempts: Attempt, agreement: AutoTopUp = AGREED, now_us: int = NOW_US) -> object:
    bounds = {"unit_micros": UNIT, "minimum_micros": MINIMUM, "maximum_micros": MAXIMUM}
    return decide_attempt(agreement, attempts, balance_micros, now_us, **bounds)


def test_the_card_fills_up_to_the_target_in_payable_units() -> None:
    assert decide(5_000_000) == "balance"
    assert decide(4_999_999) == Charge(15_010_000)
    assert decide(-3_000_001) == Charge(23_010_000)


@pytest.mark.parametrize("state", ["paid", "declined", "needs_customer"])
def test_an_hour_passes_between_two_attempts_whether_it_worked_or_not(state: AttemptState) -> None:
    attempt = Attempt(NOW_US - HOUR_US + 1, 1_000_000, state)
    assert decide(0, attempt) == "an hour"
    assert isinstance(decide(0, attempt, now_us=NOW_US + 1), Charge)


def test_an_open_attempt_holds_for_as_long_as_it_is_open() -> None:
    assert decide(0, Attempt(NOW_US - 40 * DAY_US, 1_000_000, "open")) == "attempt open"


def test_caps_leave_the_rest_and_no_less_than_the_smallest_payment() -> None:
    paid = [Attempt(NOW_US - hours * HOUR_US, 15_000_000, "paid") for hours in (2, 4)]
    assert decide(0, *paid) == Charge(10_000_000)
    assert decide(0, *paid, Attempt(NOW_US - 6 * HOUR_US, 9_600_000, "paid")) == "daily cap"
    before = [Attempt(NOW_US - days * DAY_US, 33_000_000, "paid") for days in (1, 2, 3)]
    assert decide(0, *before) == Charge(1_000_000)
    assert decide(0, *before, Attempt(NOW_US - 4 * DAY_US, 800_000, "paid")) == "monthly cap"
    assert decide(0, Attempt(NOW_US - 30 * DAY_US, 99_000_000, "paid")) == Charge(20_000_000)


def test_declines_in_a_row_and_a_bank_that_asks_for_the_customer_suspend() -> None:
    def attempts(*states: AttemptState) -> list[Attempt]:
        return [Attempt(NOW_US + number * HOUR_US, 1, state) for number, state in enumerate(states)]

    assert decide_suspension(attempts("declined", "declined"), 3) is None
    assert decide_suspension(attempts("declined", "paid", "declined", "declined"), 3) is None
    assert decide_suspension(attempts("paid", "declined", "declined", "declined"), 3) == "declined"
    assert decide_suspension(attempts("paid", "needs_customer"), 3) == "authentication_required"
    suspended = AutoTopUp(5_000_000, 20_000_000, 40_000_000, 100_000_000, "declined")
    assert decide(0, agreement=suspended) == "suspended"


@pytest.mark.parametrize(
    ("agreement", "code"),
    [
        (AutoTopUp(5_000_000, 5_400_000, 40_000_000, 100_000_000), "auto-top-up-target"),
        (AutoTopUp(-1, 20_000_000, 40_000_000, 100_000_000), "auto-top-up-threshold"),
        (AutoTopUp(5_000_000, 20_000_000, 14_990_000, 100_000_000), "auto-top-up-caps"),
        (AutoTopUp(5_000_000, 20_000_000, 40_000_000, 39_000_000), "auto-top-up-caps"),
    ],
)
def test_an_agreement_that_makes_no_sense_is_refused(agreement: AutoTopUp, code: str) -> None:
    with pytest.raises(Refusal) as refused:
        check_agreement(agreement, UNIT, MINIMUM)
    assert refused.value.code == code
    check_agreement(AGREED, UNIT, MINIMUM)


STATES = st.sampled_from(["paid", "declined"])
LIFE = st.lists(st.tuples(st.integers(1, 180), st.integers(-30_000_000, 30_000_000), STATES), min_size=1, max_size=60)


@given(LIFE)
def test_whatever_happens_no_cap_and_no_hour_is_broken(life: list[tuple[int, int, AttemptState]]) -> None:
    attempts: list[Attempt] = []
    now_us = NOW_US
    for minutes, balance_micros, outcome in life:
        now_us += minutes * MINUTE_US
        decision = decide(balance_micros, *attempts, now_us=now_us)
        if isinstance(decision, Charge):
            assert balance_micros < AGREED.threshold_micros
            assert decision.amount_micros % UNIT == 0
            assert decision.amount_micros >= MINIMUM
            assert decision.amount_micros - UNIT < AGREED.target_micros - balance_micros
            attempts.append(Attempt(now_us, decision.amount_micros, outcome))
    instants = [attempt.at_us for attempt in attempts]
    assert all(later - earlier >= HOUR_US for earlier, later in itertools.pairwise(instants))
    for period, cap in (("%Y-%m-%d", AGREED.daily_cap_micros), ("%Y-%m", AGREED.monthly_cap_micros)):
        spent: dict[str, int] = defaultdict(int)
        for attempt in attempts:
            spent[from_us(attempt.at_us).strftime(period)] += attempt.amount_micros * (attempt.state == "paid")
        assert max(spent.values(), default=0) <= cap
