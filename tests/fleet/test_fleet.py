"""Fleets are what they promise: repeatable, free of conflicts, and rich enough to be worth counting."""

import json
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fleet.disorder import delayed, shuffled_with_repeats
from tests.fleet.hostile import hostile_records
from tests.fleet.making import HOUR_US, make_fleet
from tests.oracle.accounts import answer

START_US = 1_767_225_600_000_000


def test_a_seed_gives_the_same_bytes() -> None:
    assert make_fleet(7, START_US).lines() == make_fleet(7, START_US).lines()
    assert make_fleet(7, START_US).lines() != make_fleet(8, START_US).lines()


def test_a_fleet_has_everything_in_it() -> None:
    fleet = make_fleet(1, START_US, containers=200)
    kinds = Counter(event["type"] for event in fleet.events)
    assert len(kinds) == 10
    found = answer(fleet.lines(), fleet.books, fleet.regions, fleet.end_us)
    assert len(found.totals()) == 8
    assert {kind for kinds in found.micros.values() for kind in kinds} == {"gpu", "storage", "tokens", "images"}
    assert any(key[2] == "never-priced" for key in found.unpriced)
    assert Counter(item.reason.split(":")[0] for item in found.left_out).keys() == {
        "after deletion",
        "ends no run",
        "run has begun",
    }
    platforms = Counter(
        (event["source"], "sequence" in event["data"], "run_id" in event["data"]) for event in fleet.events
    )
    assert len(platforms) == 16, "several sources, with numbers and without, with named runs and without"


@given(st.integers(0, 10_000))
@settings(max_examples=25)
def test_any_order_and_repetition_costs_the_same(seed: int) -> None:
    fleet = make_fleet(seed, START_US, containers=12, volumes=3, usages=8)
    through_us = START_US + seed % 5 * HOUR_US
    ordered = answer(fleet.lines(), fleet.books, fleet.regions, through_us)
    for lines in (shuffled_with_repeats(fleet.lines(), seed), delayed(fleet.lines(), seed)):
        assert set(lines) == set(fleet.lines())
        found = answer(lines, fleet.books, fleet.regions, through_us)
        assert (found.micros, found.slots) == (ordered.micros, ordered.slots)


def test_a_slot_by_slot_count_of_a_fleet_is_the_same() -> None:
    fleet = make_fleet(3, START_US, hours=2)
    blocks = answer(fleet.lines(), fleet.books, fleet.regions, fleet.end_us)
    slots = answer(fleet.lines(), fleet.books, fleet.regions, fleet.end_us, slot_by_slot=True)
    assert (blocks.micros, blocks.slots) == (slots.micros, slots.slots)


def test_hostile_records_charge_nobody_and_what_is_mended_charges() -> None:
    fleet = make_fleet(1, START_US)
    records = hostile_records("vn", "tenant-0", START_US + HOUR_US)
    assert len({record.name for record in records}) == len(records)
    texts = [record.value for record in records if record.fate == "dead" and record.value]
    assert answer(texts, fleet.books, fleet.regions, fleet.end_us).totals() == {}
    mended = [json.dumps(record.mended) for record in records if record.mended is not None]
    assert len(mended) >= 7
    assert answer(mended, fleet.books, fleet.regions, fleet.end_us).resources == len(mended)
