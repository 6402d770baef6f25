"""Admission as a rule: what an hour costs, and what a balance lacks for it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.balance.rules.admission import (
    PERSISTENT,
    Funds,
    Need,
    PriceKey,
    PriceStep,
    find_dearest,
    find_shortfall,
    lasts_seconds,
    require_hour,
)
from shared.clock import HOUR_US
from shared.errors import Refusal

NOW_US = 1_800_000_000_000_000
H100 = PriceKey("gpu", "h100")
STORAGE = PriceKey("storage", PERSISTENT)
MICROS = st.integers(-(10**12), 10**12)
POSITIVE = st.integers(0, 10**12)
FUNDS = st.builds(Funds, MICROS, POSITIVE, POSITIVE, POSITIVE, st.booleans())


@given(FUNDS, POSITIVE)
def test_the_shortfall_is_the_smallest_credit_that_is_enough(funds: Funds, required_micros: int) -> None:
    lacking = find_shortfall(funds, required_micros)
    credited = replace(funds, spendable_micros=funds.spendable_micros + lacking)
    assert find_shortfall(credited, required_micros) == 0
    if lacking:
        less = replace(credited, spendable_micros=credited.spendable_micros - 1)
        assert find_shortfall(less, required_micros) == 1


@given(FUNDS, POSITIVE, POSITIVE)
def test_what_is_held_is_not_there_for_the_next_one(funds: Funds, first: int, second: int) -> None:
    held = replace(funds, held_micros=funds.held_micros + first)
    assert find_shortfall(held, second) >= find_shortfall(funds, second)
    if find_shortfall(funds, first) == 0 and find_shortfall(held, second) == 0:
        assert find_shortfall(funds, first + second) == 0


def test_equality_passes_and_an_empty_balance_does_not() -> None:
    assert find_shortfall(Funds(100), 100) == 0
    assert find_shortfall(Funds(99), 100) == 1
    assert find_shortfall(Funds(0), 0) == 1
    assert find_shortfall(Funds(-5), 0) == 6
    assert find_shortfall(Funds(100, expiring_micros=1), 100) == 1
    assert find_shortfall(Funds(100, burn_micros_per_hour=50), 100) == 0
    assert find_shortfall(Funds(100, burn_micros_per_hour=50, counts_burn=True), 100) == 50


STEPS = st.lists(
    st.builds(PriceStep, st.integers(-3, 6).map(lambda half: NOW_US + half * HOUR_US // 2), st.integers(0, 9)),
    unique_by=lambda step: step.effective_from_us,
).map(sorted)


@given(STEPS)
def test_the_dearest_price_is_that_of_some_instant_within_the_hour(steps: list[PriceStep]) -> None:
    prices = []
    for minute in range(60):
        at_us = NOW_US + minute * 60_000_000
        in_force = [step.price_micros for step in steps if step.effective_from_us <= at_us]
        prices += in_force[-1:]
    assert find_dearest(steps, NOW_US, NOW_US + HOUR_US) == max(prices, default=None)


def test_an_hour_is_priced_by_unit_and_quantity() -> None:
    prices = {H100: [PriceStep(0, 2_000_000)], STORAGE: [PriceStep(0, 100), PriceStep(NOW_US + 1, 150)]}
    assert require_hour(Need("h100", 8, 100), prices, NOW_US) == 16_015_000
    assert require_hour(Need("h100", 0, 0), prices, NOW_US) == 0
    with pytest.raises(Refusal, match="unknown-sku") as refused:
        require_hour(Need("h900", 1), prices, NOW_US)
    assert (refused.value.status, refused.value.extra) == (422, {"sku": "h900"})
    with pytest.raises(Refusal, match="out-of-range"):
        require_hour(Need("h100", 4096), {H100: [PriceStep(0, 2**62)]}, NOW_US)


def test_a_balance_lasts_by_what_runs() -> None:
    assert lasts_seconds(3_600, 3_600) == 3600
    assert lasts_seconds(-1, 5) == 0
    assert lasts_seconds(10, 0) is None
