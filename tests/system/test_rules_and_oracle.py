"""Metering's rules and the oracle were written apart and agree; with a bug planted in the rules they no longer do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fleet.disorder import shuffled_with_repeats
from tests.fleet.making import HOUR_US, Fleet, make_fleet
from tests.oracle.accounts import answer
from tests.system.plants_rules import RULE_PLANTS
from tests.system.rule_totals import rule_totals, without_usage

START_US = 1_767_225_600_000_000


def small_fleet(seed: int) -> Fleet:
    return make_fleet(seed, START_US, containers=10, volumes=3, usages=0)


def agree(fleet: Fleet, seed: int, through_us: int) -> bool:
    expected = answer(fleet.lines(), fleet.books, fleet.regions, through_us, now_us=fleet.end_us)
    found = rule_totals(fleet, shuffled_with_repeats(fleet.events, seed), through_us)
    return without_usage(found) == without_usage(expected.micros)


@given(st.integers(0, 2**32), st.integers(0, 6 * HOUR_US))
@settings(max_examples=60)
def test_rules_and_oracle_agree_to_the_micro(seed: int, after_us: int) -> None:
    assert agree(small_fleet(seed), seed, START_US + after_us)


@pytest.mark.parametrize("name", RULE_PLANTS)
def test_a_bug_in_the_rules_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert agree(small_fleet(0), 0, START_US + 3 * HOUR_US)
    RULE_PLANTS[name](monkeypatch.setattr)
    caught = [seed for seed in range(20) if not agree(small_fleet(seed), seed, START_US + 3 * HOUR_US)]
    assert caught, f"{name} went unnoticed in twenty fleets"
