"""A forecast as a rule: what it says comes true when the burn is carried out minute by minute."""

from hypothesis import given
from hypothesis import strategies as st

from services.balance.rules.forecast import Bucket, find_below, find_top_up
from shared.clock import HOUR_US

NOW_US = 1_800_000_000_000_000
STEP_US = HOUR_US // 10
AMOUNTS = st.integers(0, 500).map(lambda tens: tens * 10)
ENDS = st.integers(1, 100).map(lambda steps: NOW_US + steps * STEP_US)
GRANTS = st.lists(st.builds(Bucket, AMOUNTS, ENDS), max_size=3)
# Whole tenths of an hour are whole micros, so that steps and the forecast round alike.
BURNS = st.integers(0, 100).map(lambda tens: tens * 10)


def carry_out(buckets: list[Bucket], burn_micros: int, steps: int) -> list[int]:
    """What is left after each tenth of an hour; below zero what was lacking."""
    amounts, found = [bucket.amount_micros for bucket in buckets], []
    for step in range(steps + 1):
        at_us = NOW_US + step * STEP_US
        if step:
            due = burn_micros // 10
            for index in range(len(amounts)):
                taken = min(amounts[index], due) if index < len(amounts) - 1 else due
                amounts[index] -= taken
                due -= taken
        for index, bucket in enumerate(buckets):
            if bucket.ends_at_us is not None and bucket.ends_at_us <= at_us:
                amounts[index] = 0
        found.append(sum(amounts))
    return found


@given(GRANTS, AMOUNTS, BURNS, st.integers(0, 1000))
def test_the_forecast_comes_true(grants: list[Bucket], bought: int, burn: int, threshold: int) -> None:
    buckets = [*grants, Bucket(bought)]
    left = carry_out(buckets, burn, 200)
    at_us = find_below(buckets, burn, NOW_US, threshold)
    low = [step for step, amount in enumerate(left) if amount <= threshold]
    if not low:
        assert at_us is None or at_us > NOW_US + 200 * STEP_US
    else:
        assert at_us is not None
        assert (
            NOW_US + (low[0] - 1) * STEP_US < at_us <= NOW_US + low[0] * STEP_US or at_us == NOW_US == NOW_US + low[0]
        )


@given(GRANTS, st.integers(-5000, 5000), BURNS, st.integers(1, 150))
def test_the_top_up_is_the_smallest_that_lasts(grants: list[Bucket], bought: int, burn: int, steps: int) -> None:
    until_us = NOW_US + steps * STEP_US
    top_up = find_top_up([*grants, Bucket(bought)], burn, NOW_US, until_us)
    assert min(carry_out([*grants, Bucket(max(0, bought) + max(0, top_up - max(0, -bought)))], burn, steps)) >= 0
    if top_up > max(0, -bought):
        less = carry_out([*grants, Bucket(max(0, bought) + top_up - max(0, -bought) - 1)], burn, steps)
        assert less[-1] < 0


def test_a_balance_without_burn_ends_only_with_its_grants() -> None:
    assert find_below([Bucket(5)], 0, NOW_US, 0) is None
    assert find_below([Bucket(5, NOW_US + 7)], 0, NOW_US, 0) == NOW_US + 7
    assert find_below([Bucket(-1)], 10, NOW_US, 0) == NOW_US
    assert find_below([Bucket(10, NOW_US + HOUR_US), Bucket(5)], 10, NOW_US, 0) == NOW_US + HOUR_US * 3 // 2
