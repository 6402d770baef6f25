"""The charge function against brute force, and the properties that money rests on.

Speed is no test, for clocks flake. Measured on two cores shared with other work, Python 3.11, best of five rounds:
a container of 149 days (214,560 slots of each kind) with 3 events 18 µs, the same with 15 price changes 51 µs, a
history of 200 events 420 µs; `steady` for a running container 29 µs; encoding a history of 3 events 1 µs, decoding
it 4 µs.
"""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.metering.rules.charge import burn_at, charge, hourly_price, steady, total
from services.metering.rules.history import Event, History
from services.metering.rules.lines import tick_lines
from services.metering.rules.prices import PriceTable
from services.metering.rules.segments import Segment
from shared.errors import Corruption
from tests.unit.metering import brute_force
from tests.unit.metering.lives import CREATED_US, SECOND_US, Case, cases, instants, resting_cases

MINUTE_US = 60 * SECOND_US
PRICES = PriceTable(
    {
        ("gpu", "h100"): ((0, 2_540_000),),
        ("gpu", "a30"): ((0, 670_000),),
        ("storage", "persistent"): ((0, 130),),
    }
)


def life(*events: Event, **more: Any) -> History:
    created = Event("p", "e0", "container.created", CREATED_US, gpu_sku="h100", gpu_count=2, storage_gb=500)
    return History((created, *events), **{"slot_seconds": 60, **more})


def event(action: str, offset_us: int, gpu_sku: str | None = None, gpu_count: int | None = None) -> Event:
    at_us = CREATED_US + offset_us
    return Event("p", f"{action}-{offset_us}", f"container.{action}", at_us, gpu_sku=gpu_sku, gpu_count=gpu_count)


def charged_slots(segments: tuple[Segment, ...], kind: str) -> list[brute_force.Slot]:
    return [
        brute_force.Slot(slot, *segment.value)
        for segment in segments
        if segment.kind == kind
        for slot_from, slot_to in segment.ranges
        for slot in range(slot_from, slot_to)
    ]


@given(cases())
def test_charge_equals_brute_force(case: Case) -> None:
    segments = charge(case.history, case.prices, case.through_us)
    expected = brute_force.slots(case.history, case.points, case.through_us)
    for kind in ("gpu", "storage"):
        assert charged_slots(segments, kind) == expected[kind]
        assert total(segments).get(kind, 0) == brute_force.amount(expected[kind], case.history.slot_seconds)


@given(cases())
def test_segments_are_well_formed(case: Case) -> None:
    segments = charge(case.history, case.prices, case.through_us)
    for before, after in pairwise(segments):
        assert before.kind <= after.kind
        if before.kind == after.kind:
            assert before.value != after.value
            assert before.ranges[-1][1] <= after.slot_from
    for segment in segments:
        assert segment.slots == sum(stop - start for start, stop in segment.ranges) > 0
        assert segment.slot_from == segment.ranges[0][0] >= 0
        assert segment.amount_micros == segment.slots * segment.price_micros * case.history.slot_seconds // 3600
        gaps = pairwise(segment.ranges)
        assert all(stop < start for (_, stop), (start, _) in gaps)


@given(cases(), st.data())
def test_any_order_of_arrival_costs_the_same(case: Case, data: st.DataObject) -> None:
    shuffled = replace(case.history, events=tuple(data.draw(st.permutations(case.history.events))))
    assert charge(shuffled, case.prices, case.through_us) == charge(case.history, case.prices, case.through_us)


@given(price_micros=st.integers(0, 10**9), count=st.integers(1, 8), slot_seconds=st.sampled_from([1, 60, 900, 3600]))
def test_an_hour_costs_exactly_its_price(price_micros: int, count: int, slot_seconds: int) -> None:
    prices = PriceTable({("gpu", "h100"): ((0, price_micros),)})
    started = (event("resized", 0, gpu_count=count), event("started", 0))
    segments = charge(life(*started, slot_seconds=slot_seconds), prices, CREATED_US + 3600 * SECOND_US)
    assert total(segments) == {"gpu": price_micros * count}


@given(cases(), st.data())
def test_ticks_add_up_to_the_charge(case: Case, data: st.DataObject) -> None:
    ticks = sorted(data.draw(st.lists(instants(case.history.slot_seconds, -1, 15), max_size=8)))
    billed: dict[str, int] = {}
    slots: dict[str, int] = {}
    before: tuple[Segment, ...] = ()
    for through_us in (*ticks, max([case.through_us, *ticks])):
        after = charge(case.history, case.prices, through_us)
        for line in tick_lines(before, after):
            billed[line.kind] = billed.get(line.kind, 0) + line.amount_micros
            slots[line.kind] = slots.get(line.kind, 0) + line.slots
        before = after
    assert {kind: sum_micros for kind, sum_micros in billed.items() if sum_micros} == {
        kind: sum_micros for kind, sum_micros in total(before).items() if sum_micros
    }
    for kind in billed:
        assert slots[kind] == len(charged_slots(before, kind))


@given(resting_cases(), st.data())
def test_cursors_bill_what_the_charge_bills(case: Case, data: st.DataObject) -> None:
    history, prices, through_us = case.history, case.prices, case.through_us
    rest = steady(history, prices, through_us)
    life_of = brute_force.live(history)
    happens = [at_us for at_us, _ in life_of.facts]
    happens += [at_us for at_us in (history.commanded_us, history.confirmed_until_us) if at_us is not None]
    ends = [end for end in (life_of.deleted_us, history.commanded_us) if end is not None]
    over = bool(ends) and min(ends) < through_us
    assert (rest is None) == (max(happens) >= through_us and not over)
    if rest is None:
        return
    assert rest.burn_micros_per_hour == sum(cursor.price_micros for cursor in rest.cursors)
    slot_us = history.slot_seconds * SECOND_US
    remainders = {cursor.kind: cursor.carried for cursor in rest.cursors}
    dues = {cursor.kind: cursor.next_due_us for cursor in rest.cursors}
    before = charge(history, prices, through_us)
    for offset_us in data.draw(st.lists(st.integers(0, 4 * slot_us), min_size=1, max_size=4)):
        through_us += offset_us
        after = charge(history, prices, through_us)
        grown = {kind: total(after).get(kind, 0) - total(before).get(kind, 0) for kind in ("gpu", "storage")}
        billed = {"gpu": 0, "storage": 0}
        for cursor in rest.cursors:
            due = max(0, -((dues[cursor.kind] - through_us) // slot_us))
            first_slot = (dues[cursor.kind] - life_of.created_us) // slot_us
            dues[cursor.kind] += due * slot_us
            owed = due * cursor.price_micros * history.slot_seconds + remainders[cursor.kind]
            billed[cursor.kind], remainders[cursor.kind] = divmod(owed, 3600)
            lines = [line for line in tick_lines(before, after) if line.kind == cursor.kind]
            assert [(line.sku, line.price_micros, line.slot_from, line.slots) for line in lines] == (
                [(cursor.sku, cursor.price_micros, first_slot, due)] if due else []
            )
        assert billed == grown
        before = after


@given(cases())
def test_burn_is_the_hourly_price_of_what_is_charged_at_an_instant(case: Case) -> None:
    at_us, history = case.through_us, case.history
    life_of = brute_force.live(history)
    ends = (life_of.deleted_us, history.commanded_us, history.confirmed_until_us)
    expected = 0
    if not any(end is not None and end <= at_us for end in ends):
        running, sku, count, size_gb = brute_force.replay(life_of, at_us)
        if running and sku is not None:
            expected += (brute_force.price_at(case.points, "gpu", sku, at_us) or 0) * count
        expected += (brute_force.price_at(case.points, "storage", "persistent", at_us) or 0) * size_gb
    assert burn_at(history, case.prices, at_us) == expected


@given(cases(events_max=6))
def test_inventory_ahead_changes_nothing_until_it_runs_out(case: Case) -> None:
    bound_us = case.through_us
    without = replace(case.history, confirmed_until_us=None)
    bounded = replace(case.history, confirmed_until_us=bound_us)
    assert charge(bounded, case.prices, bound_us) == charge(without, case.prices, bound_us)


def test_ten_restarts_within_a_slot_cost_one_slot() -> None:
    toggles = [event("started" if n % 2 == 0 else "stopped", n * SECOND_US) for n in range(20)]
    [gpu, _] = charge(life(*toggles), PRICES, CREATED_US + 10 * MINUTE_US)
    assert (gpu.kind, gpu.slots, gpu.price_micros) == ("gpu", 1, 5_080_000)


def test_the_dearest_configuration_of_a_slot_is_charged_and_of_equals_the_latest() -> None:
    grown = life(
        event("started", 0),
        event("resized", 10 * SECOND_US, gpu_count=3),
        event("resized", 20 * SECOND_US, gpu_count=1),
    )
    [dear, cheap, _] = charge(grown, PRICES, CREATED_US + 2 * MINUTE_US)
    assert (dear.quantity, dear.ranges) == (3, ((0, 1),))
    assert (cheap.quantity, cheap.ranges) == (1, ((1, 2),))
    equal = PriceTable({("gpu", "h100"): ((0, 100),), ("gpu", "a30"): ((0, 100),)})
    switched = life(event("started", 0), event("resized", SECOND_US, gpu_sku="a30"))
    [only] = charge(switched, equal, CREATED_US + MINUTE_US)
    assert only.sku == "a30"


def test_a_stop_does_not_break_a_segment_and_a_repeated_price_neither() -> None:
    stopped = life(event("started", 0), event("stopped", MINUTE_US), event("started", 5 * MINUTE_US))
    repeated = PriceTable({("gpu", "h100"): ((0, 7), (CREATED_US + 6 * MINUTE_US, 7))})
    [gpu] = charge(stopped, repeated, CREATED_US + 8 * MINUTE_US)
    assert (gpu.slot_from, gpu.slots, gpu.ranges) == (0, 4, ((0, 1), (5, 8)))


def test_an_unpriced_slot_is_not_charged_until_a_first_price_reaches_back() -> None:
    started = life(event("started", 0), event("resized", 0, gpu_sku="new"))
    late = PriceTable({("gpu", "new"): ((CREATED_US + 3 * MINUTE_US, 3600),)})
    [gpu] = charge(started, late, CREATED_US + 5 * MINUTE_US)
    assert gpu.ranges == ((3, 5),)
    rest = steady(started, PRICES, CREATED_US + 5 * MINUTE_US)
    assert rest is not None
    assert rest.unpriced == (("gpu", "new"),)
    assert [cursor.kind for cursor in rest.cursors] == ["storage"]


def test_a_cursor_takes_the_remainder_of_its_segment_along_and_of_no_other() -> None:
    prices = PriceTable({("gpu", "h100"): ((0, 59),)})
    running = life(event("started", 0))
    for slots in range(1, 130):
        rest = steady(running, prices, CREATED_US + slots * MINUTE_US)
        assert rest is not None
        assert [cursor.carried for cursor in rest.cursors] == [slots * 118 * 60 % 3600]
    shrunk = life(event("started", 0), event("resized", MINUTE_US + 1, gpu_count=1))
    rest = steady(shrunk, prices, CREATED_US + MINUTE_US + 2)
    assert rest is not None
    assert [(cursor.price_micros, cursor.next_slot, cursor.carried) for cursor in rest.cursors] == [(59, 2, 0)]
    assert steady(shrunk, prices, CREATED_US + MINUTE_US + 1) is None


def test_a_remainder_ends_with_its_sku_even_at_the_same_price_an_hour() -> None:
    running = (event("started", 0), event("resized", 1, gpu_sku="a30", gpu_count=1))
    # The h100 that ran in this slot was the dearer; the a30 goes on at the price an hour that it had.
    dearer = PriceTable({("gpu", "h100"): ((0, 59),), ("gpu", "a30"): ((0, 0), (CREATED_US + MINUTE_US, 118))})
    rest = steady(life(*running), dearer, CREATED_US + 2)
    assert rest is not None
    assert [(cursor.price_micros, cursor.carried) for cursor in rest.cursors] == [(118, 0)]


def test_a_remainder_ends_with_its_price_and_is_taken_up_if_the_price_never_applied() -> None:
    change_us = CREATED_US + MINUTE_US
    changed = PriceTable({("gpu", "h100"): ((0, 59), (change_us, 61))})
    rest = steady(life(event("started", 0)), changed, change_us)
    assert rest is not None
    assert [(cursor.price_micros, cursor.carried) for cursor in rest.cursors] == [(122, 0)]
    back = PriceTable({("gpu", "h100"): ((0, 59), (change_us - 2, 61), (change_us - 1, 59))})
    rest = steady(life(event("started", 0)), back, change_us)
    assert rest is not None
    assert [(cursor.price_micros, cursor.carried) for cursor in rest.cursors] == [(118, 118 * 60 % 3600)]


def test_the_end_of_charges_is_rest_after_its_instant_only() -> None:
    end_us = CREATED_US + 5 * MINUTE_US
    for ending in (
        life(event("started", 0), event("deleted", 5 * MINUTE_US)),
        replace(life(event("started", 0)), commanded_us=end_us),
        replace(life(event("started", 0)), confirmed_until_us=end_us),
    ):
        rests = [steady(ending, PRICES, end_us + offset_us) for offset_us in (-1, 0, 1)]
        assert rests[:2] == [None, None]
        assert rests[2] is not None
        assert rests[2].cursors == ()
        burns = [burn_at(ending, PRICES, end_us + offset_us) for offset_us in (-1, 0, 1)]
        assert burns == [2 * 2_540_000 + 500 * 130, 0, 0]


def test_storage_is_charged_while_stopped_and_a_cpu_container_has_no_gpu_charge() -> None:
    cpu = life(event("resized", 0, gpu_count=0), event("started", 0))
    [storage] = charge(cpu, PRICES, CREATED_US + 60 * MINUTE_US)
    assert (storage.kind, storage.slots, storage.amount_micros) == ("storage", 60, 65_000)


def test_a_zero_length_run_and_a_zero_length_life_cost_nothing() -> None:
    blink = life(event("started", 5), event("stopped", 5))
    assert [segment.kind for segment in charge(blink, PRICES, CREATED_US + MINUTE_US)] == ["storage"]
    assert charge(life(event("started", 0), event("deleted", 0)), PRICES, CREATED_US + MINUTE_US) == ()


def test_a_deletion_commanded_or_unconfirmed_by_inventory_ends_the_charges() -> None:
    running = life(event("started", 0))
    through_us = CREATED_US + 10 * MINUTE_US
    commanded = replace(running, commanded_us=CREATED_US + 3 * MINUTE_US)
    unconfirmed = replace(running, confirmed_until_us=CREATED_US + 3 * MINUTE_US)
    for ended in (commanded, unconfirmed):
        assert [segment.slots for segment in charge(ended, PRICES, through_us)] == [3, 3]
        rest = steady(ended, PRICES, through_us)
        assert rest is not None
        assert (rest.cursors, rest.burn_micros_per_hour) == ((), 0)


def test_the_hourly_price_is_that_of_the_dearest_configuration() -> None:
    grown = life(
        event("started", 0), event("resized", MINUTE_US, gpu_count=4), event("resized", 2 * MINUTE_US, gpu_count=1)
    )
    assert hourly_price(charge(grown, PRICES, CREATED_US + 5 * MINUTE_US)) == 4 * 2_540_000 + 500 * 130


def test_an_unknown_function_version_stops_the_line() -> None:
    with pytest.raises(Corruption, match="version 2"):
        charge(life(function_version=2), PRICES, CREATED_US)
