"""An event that comes after an instant changes nothing that is charged up to it: the shortcut of most intake."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.metering.rules.charge import charge
from services.metering.rules.history import Event, History, comes_after
from tests.unit.metering.lives import CREATED_US, Case, cases, later_events

MINUTE_US = 60_000_000


@given(st.data(), cases(events_max=6))
def test_the_charge_up_to_an_instant_does_not_know_of_what_comes_after(data: st.DataObject, case: Case) -> None:
    family = case.history.events[0].type.partition(".")[0]
    events = [
        data.draw(later_events(case.history.slot_seconds, 20 + number, family))
        for number in range(data.draw(st.integers(1, 3)))
    ]
    if data.draw(st.booleans()):
        events = [replace(event, sequence=data.draw(st.integers(0, 12))) for event in events]
    # Around the events' own times and anywhere else.
    earliest_us = min(event.time_us for event in events)
    through_us = data.draw(st.sampled_from([earliest_us - 1, earliest_us, earliest_us + 1, case.through_us]))
    if comes_after(case.history, events, through_us):
        before = charge(case.history, case.prices, through_us)
        longer = replace(case.history, events=(*case.history.events, *events))
        assert charge(longer, case.prices, through_us) == before


def numbered(name: str, kind: str, minute: int, sequence: int | None) -> Event:
    return Event("platform", name, f"container.{kind}", CREATED_US + minute * MINUTE_US, sequence, "a30", 1)


def test_plain_cases() -> None:
    known = History((numbered("a", "created", 0, 1), numbered("b", "started", 5, 3)), 60)
    at_us = CREATED_US + 10 * MINUTE_US
    stop = numbered("c", "stopped", 10, 4)
    assert comes_after(known, [stop], at_us)
    assert comes_after(known, [stop, numbered("d", "started", 11, 5)], at_us)
    assert comes_after(known, [numbered("c", "stopped", 10, None)], at_us)
    assert not comes_after(known, [numbered("c", "stopped", 9, 4)], at_us), "before the instant"
    assert not comes_after(known, [numbered("c", "stopped", 10, 2)], at_us), "the start takes effect after it then"
    assert not comes_after(known, [stop, numbered("d", "started", 11, 4)], at_us), "the numbers contradict one another"
