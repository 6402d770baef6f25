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
    event = data.draw(later_events(case.history.slot_seconds, 20, family))
    if data.draw(st.booleans()):
        event = replace(event, source="platform", sequence=data.draw(st.integers(0, 12)))
    # Around the event's own time and anywhere else.
    through_us = data.draw(st.sampled_from([event.time_us - 1, event.time_us, event.time_us + 1, case.through_us]))
    if comes_after(case.history, event, through_us):
        before = charge(case.history, case.prices, through_us)
        assert charge(case.history.with_event(event), case.prices, through_us) == before


def numbered(name: str, kind: str, minute: int, sequence: int | None) -> Event:
    return Event("platform", name, f"container.{kind}", CREATED_US + minute * MINUTE_US, sequence, "a30", 1)


def test_plain_cases() -> None:
    known = History((numbered("a", "created", 0, 1), numbered("b", "started", 5, 3)), 60)
    at_us = CREATED_US + 10 * MINUTE_US
    assert comes_after(known, numbered("c", "stopped", 10, 4), at_us)
    assert not comes_after(known, numbered("c", "stopped", 9, 4), at_us), "before the instant"
    assert not comes_after(known, numbered("c", "stopped", 10, 2), at_us), "the start takes effect after it then"
    assert not comes_after(known, numbered("c", "stopped", 10, None), at_us), "all are ordered by time then"
    by_time = History((numbered("a", "created", 0, None), numbered("b", "started", 5, 3)), 60)
    assert comes_after(by_time, numbered("c", "stopped", 10, 2), at_us)
