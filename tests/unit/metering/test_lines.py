"""Lines: differences of charges, for ticks and for corrections."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.metering.rules.charge import charge, total
from services.metering.rules.history import Event, History
from services.metering.rules.lines import Line, correction_lines, tick_lines
from services.metering.rules.prices import PriceTable
from services.metering.rules.segments import Segment
from tests.unit.metering import brute_force
from tests.unit.metering.lives import CREATED_US, SECOND_US, Case, cases, instants, later_events, price_points

MINUTE_US = 60 * SECOND_US


def summed(lines: tuple[Line, ...]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for line in lines:
        sums[line.kind] = sums.get(line.kind, 0) + line.amount_micros
    return sums


def difference(before: tuple[Segment, ...], after: tuple[Segment, ...]) -> dict[str, int]:
    return {kind: total(after).get(kind, 0) - total(before).get(kind, 0) for kind in total(before) | total(after)}


def by_slot(segments: tuple[Segment, ...], kind: str) -> dict[int, tuple[str, int, int]]:
    return {
        slot: segment.value
        for segment in segments
        if segment.kind == kind
        for slot_from, slot_to in segment.ranges
        for slot in range(slot_from, slot_to)
    }


def check_correction(before: tuple[Segment, ...], after: tuple[Segment, ...]) -> None:
    lines = correction_lines(before, after)
    changed = {kind: amount for kind, amount in difference(before, after).items() if amount}
    assert summed(lines) == changed
    assert [line.kind for line in lines] == sorted(changed)
    for line in lines:
        assert line.class_ == ("credit_correction" if line.amount_micros < 0 else "debit_correction")
        old, new = by_slot(before, line.kind), by_slot(after, line.kind)
        first = min(slot for slot in old | new if old.get(slot) != new.get(slot))
        sku, quantity, unit_price = new.get(first) or old[first]
        assert (line.slot_from, line.sku, line.price_micros) == (first, sku, quantity * unit_price)
        assert line.slots == len(new) - len(old)


@given(cases(), st.data())
def test_ticks_and_corrections_add_up_to_the_charge_whatever_comes_late(case: Case, data: st.DataObject) -> None:
    """Events arrive in any order between ticks; what is published is always the charge of what is known."""
    created, *others = sorted(case.history.events, key=lambda event: not event.type.endswith("created"))
    known = replace(case.history, events=(created,))
    late = data.draw(st.permutations(others))
    ticks = sorted(data.draw(st.lists(instants(case.history.slot_seconds), min_size=len(late), max_size=len(late))))
    published: dict[str, int] = {}
    settled: tuple[Segment, ...] = ()
    for event, through_us in zip(late, ticks, strict=True):
        ticked = charge(known, case.prices, through_us)
        lines = tick_lines(settled, ticked)
        known = replace(known, events=(*known.events, event))
        settled = charge(known, case.prices, through_us)
        check_correction(ticked, settled)
        for line in (*lines, *correction_lines(ticked, settled)):
            published[line.kind] = published.get(line.kind, 0) + line.amount_micros
        for kind in ("gpu", "storage"):
            expected = brute_force.slots(known, case.points, through_us)[kind]
            assert published.get(kind, 0) == brute_force.amount(expected, known.slot_seconds)


@given(cases(), st.data())
def test_a_changed_price_is_corrected_to_the_charge(case: Case, data: st.DataObject) -> None:
    changed = case._replace(points=data.draw(price_points(case.history.slot_seconds)))
    before = charge(case.history, case.prices, case.through_us)
    check_correction(before, charge(case.history, changed.prices, case.through_us))


@given(cases(), st.data())
def test_an_insertion_and_its_removal_cancel(case: Case, data: st.DataObject) -> None:
    extra = data.draw(later_events(case.history.slot_seconds, 99))
    before = charge(case.history, case.prices, case.through_us)
    after = charge(replace(case.history, events=(*case.history.events, extra)), case.prices, case.through_us)
    there, back = summed(correction_lines(before, after)), summed(correction_lines(after, before))
    assert {kind: -amount for kind, amount in there.items()} == back


@given(cases(), st.data())
def test_a_tick_is_a_charge_but_for_a_micro_of_rounding(case: Case, data: st.DataObject) -> None:
    first, second = sorted(data.draw(st.tuples(*[instants(case.history.slot_seconds, -1, 14)] * 2)))
    before = charge(case.history, case.prices, first)
    after = charge(case.history, case.prices, second)
    lines = tick_lines(before, after)
    changed = difference(before, after)
    assert {kind: amount for kind, amount in summed(lines).items() if amount} == {
        kind: amount for kind, amount in changed.items() if amount
    }
    for line in lines:
        assert line.amount_micros >= -1
        assert line.class_ == ("charge" if line.amount_micros >= 0 else "credit_correction")
        assert line.slots >= 0
        old, new = by_slot(before, line.kind), by_slot(after, line.kind)
        assert line.slot_from in new
        assert new[line.slot_from] != old.get(line.slot_from)


def life(*events: Event) -> History:
    created = Event("p", "c", "container.created", CREATED_US, gpu_sku="h100", gpu_count=1, storage_gb=0)
    return History((created, Event("p", "s", "container.started", CREATED_US), *events), 60)


def resized(offset_us: int, **more: str | int) -> Event:
    event = Event("p", f"r{offset_us}", "container.resized", CREATED_US + offset_us)
    return replace(event, **more)  # type: ignore[arg-type]


def test_a_slot_that_grows_dearer_under_way_is_netted_into_one_charge() -> None:
    prices = PriceTable({("gpu", "h100"): ((0, 3600),)})
    history = life(resized(150 * SECOND_US, gpu_count=2))
    before = charge(history, prices, CREATED_US + 140 * SECOND_US)
    after = charge(history, prices, CREATED_US + 4 * MINUTE_US)
    assert tick_lines(before, after) == (Line("gpu", "charge", "h100", 2, 1, 7200, 180),)


def test_rounding_may_take_a_micro_back_when_an_equal_price_takes_over_a_slot() -> None:
    # Half a micro a slot: two slots of one SKU are a micro, one slot of each of two SKUs is nothing.
    prices = PriceTable({("gpu", "h100"): ((0, 30),), ("gpu", "a30"): ((0, 30),)})
    history = life(resized(100 * SECOND_US, gpu_sku="a30"))
    before = charge(history, prices, CREATED_US + 90 * SECOND_US)
    after = charge(history, prices, CREATED_US + 110 * SECOND_US)
    assert tick_lines(before, after) == (Line("gpu", "credit_correction", "a30", 1, 0, 30, -1),)


def test_growth_after_a_gap_begins_where_it_is_charged() -> None:
    prices = PriceTable({("gpu", "h100"): ((0, 3600),)})
    stopped = Event("p", "x", "container.stopped", CREATED_US + MINUTE_US)
    again = Event("p", "y", "container.started", CREATED_US + 5 * MINUTE_US)
    history = life(stopped, again)
    before = charge(history, prices, CREATED_US + 2 * MINUTE_US)
    after = charge(history, prices, CREATED_US + 7 * MINUTE_US)
    assert tick_lines(before, after) == (Line("gpu", "charge", "h100", 5, 2, 3600, 120),)
    assert tick_lines(after, after) == ()
