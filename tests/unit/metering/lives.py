"""Generated lives of resources: short, and dense in everything that can go wrong within a slot."""

from dataclasses import replace
from typing import NamedTuple

from hypothesis import strategies as st

from services.metering.rules.history import Event, History
from services.metering.rules.prices import PriceTable
from tests.unit.metering.brute_force import Prices

SECOND_US = 1_000_000
CREATED_US = 1_700_000_000_123_457
SPAN_SLOTS = 12

SKUS = st.sampled_from(["a30", "h100", "unpriced"])
COUNTS = st.integers(0, 3)
SIZES = st.sampled_from([0, 1, 7, 500])
# Prices that do and don't divide into slots, nothing at all, and pairs a hair apart.
UNIT_PRICES = st.sampled_from([0, 1, 59, 60, 61, 1799, 1800, 3600, 7200, 670_000, 2_540_000])


class Case(NamedTuple):
    history: History
    points: Prices
    through_us: int

    @property
    def prices(self) -> PriceTable:
        return PriceTable({key: tuple(sorted(entries)) for key, entries in self.points.items()}, 1)


def instants(slot_seconds: int, slots_min: int = -2, slots_max: int = SPAN_SLOTS) -> st.SearchStrategy[int]:
    """Instants around the life's grid: on its lines, beside them, anywhere."""
    slot_us = slot_seconds * SECOND_US
    offsets = st.one_of(st.sampled_from([0, 0, 1, -1, slot_us // 2, slot_us // 3]), st.integers(0, slot_us - 1))
    return st.builds(
        lambda slot, offset: CREATED_US + slot * slot_us + offset, st.integers(slots_min, slots_max), offsets
    )


@st.composite
def later_events(draw: st.DrawFn, slot_seconds: int, number: int, family: str = "container") -> Event:
    """Any event but a creation."""
    actions = (
        ["started", "started", "stopped", "resized", "deleted"] if family == "container" else ["resized", "deleted"]
    )
    action = draw(st.sampled_from(actions))
    event = Event(
        source=draw(st.sampled_from(["platform", "platform", "agent"])),
        event_id=f"e{number}",
        type=f"{family}.{action}",
        time_us=draw(instants(slot_seconds)),
    )
    if action in ("started", "stopped"):
        return replace(event, run_id=draw(st.sampled_from([None, None, None, "r1", "r2"])))
    if action != "resized":
        return event
    storage_gb = draw(st.none() | SIZES)
    if family == "volume":
        return replace(event, storage_gb=storage_gb)
    return replace(event, gpu_sku=draw(st.none() | SKUS), gpu_count=draw(st.none() | COUNTS), storage_gb=storage_gb)


@st.composite
def histories(draw: st.DrawFn, events_max: int = 9) -> History:
    slot_seconds = draw(st.sampled_from([1, 60, 60, 900]))
    family = draw(st.sampled_from(["container", "container", "container", "volume"]))
    created = Event("platform", "e0", f"{family}.created", CREATED_US, storage_gb=draw(st.none() | SIZES))
    if family == "container":
        created = replace(created, gpu_sku=draw(SKUS), gpu_count=draw(COUNTS))
    count = draw(st.integers(0, events_max))
    events = [created, *(draw(later_events(slot_seconds, number, family)) for number in range(1, count + 1))]
    numbering = draw(st.sampled_from(["none", "none", "all", "all", "some", "twice"]))
    if numbering != "none":
        # Numbers in an order that the clocks may contradict; of one source or of two.
        numbers = draw(st.permutations(range(len(events))))
        if numbering == "twice":
            numbers = [number // 2 for number in numbers]
        events = [
            replace(event, sequence=number if numbering != "some" or draw(st.booleans()) else None)
            for event, number in zip(events, numbers, strict=True)
        ]
    bound = st.none() | instants(slot_seconds)
    return History(
        tuple(events),
        slot_seconds,
        commanded_us=draw(st.none() | bound),
        confirmed_until_us=draw(st.none() | bound),
    )


@st.composite
def price_points(draw: st.DrawFn, slot_seconds: int) -> Prices:
    """Prices from some instant on, with changes; `unpriced` never has one, the others perhaps not from the start."""
    points: Prices = {}
    for key in (("gpu", "a30"), ("gpu", "h100"), ("storage", "persistent")):
        since_us = draw(st.sampled_from([0, 0, 0]) | instants(slot_seconds))
        changes = draw(st.dictionaries(instants(slot_seconds), UNIT_PRICES, max_size=3))
        points[key] = sorted({since_us: draw(UNIT_PRICES), **changes}.items())
    return points


@st.composite
def cases(draw: st.DrawFn, events_max: int = 9) -> Case:
    history = draw(histories(events_max))
    return Case(
        history, draw(price_points(history.slot_seconds)), draw(instants(history.slot_seconds, -1, SPAN_SLOTS + 3))
    )


@st.composite
def resting_cases(draw: st.DrawFn) -> Case:
    """Lives of which all is over when `through` comes, at its very instant or after: most go on billing."""
    case = draw(cases(events_max=5))
    # Most events that end a life are left out, and most bounds.
    ending = draw(st.sampled_from([False, False, False, True]))
    events = tuple(event for event in case.history.events if ending or not event.type.endswith("deleted"))
    if draw(st.booleans()) and events[0].type.startswith("container"):
        started_us = max(event.time_us for event in events)
        number = None if events[0].sequence is None else 99
        events += (Event("platform", "last", "container.started", started_us, number),)
    history = replace(case.history, events=events)
    if not ending:
        history = replace(history, commanded_us=None, confirmed_until_us=None)
    happens = [history.commanded_us, history.confirmed_until_us, *(event.time_us for event in events)]
    slot_us = history.slot_seconds * SECOND_US
    after_us = draw(st.sampled_from([0, 1, 1, slot_us // 2, slot_us, 2 * slot_us, 5 * slot_us + 1]))
    through_us = max(at_us for at_us in happens if at_us is not None) + after_us
    # Prices that stand still from `through` on: a change ends a cursor's window.
    points = {key: [entry for entry in entries if entry[0] < through_us] for key, entries in case.points.items()}
    return Case(history, points, through_us)
