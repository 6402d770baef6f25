"""Histories: stored form, order of events, and what becomes of what lies before, after and beside a life."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.metering.rules.history import RANK, Event, History, decode_history, encode_history, order_events
from shared.errors import Corruption
from tests.unit.metering import brute_force
from tests.unit.metering.lives import histories

OPTIONAL = st.none() | st.integers(-(2**63), 2**63 - 1)
EVENTS = st.builds(
    Event,
    source=st.text(),
    event_id=st.text(),
    type=st.sampled_from(sorted(RANK)),
    time_us=st.integers(-(2**63), 2**63 - 1),
    sequence=OPTIONAL,
    gpu_sku=st.none() | st.text(),
    gpu_count=OPTIONAL,
    storage_gb=OPTIONAL,
)
ANY_HISTORY = st.builds(
    History,
    events=st.lists(EVENTS, max_size=5).map(tuple),
    slot_seconds=st.integers(1, 86_400),
    function_version=st.integers(1, 9),
    commanded_us=OPTIONAL,
    confirmed_until_us=OPTIONAL,
)


@given(ANY_HISTORY)
def test_what_is_stored_is_what_is_read(history: History) -> None:
    assert decode_history(encode_history(history)) == history


@pytest.mark.parametrize("data", [b"", b"null", b"{}", b"[1,2]", b"[2,60,1,null,null,[]]", b"[1,60,1,null,null,[[1]]]"])
def test_what_is_no_history_is_a_corruption(data: bytes) -> None:
    with pytest.raises(Corruption):
        decode_history(data)


@given(histories())
def test_order_agrees_with_a_second_implementation(history: History) -> None:
    facts = brute_force.live(history).facts
    assert list(order_events(history.events))[: len(facts)] == facts


@given(histories(), st.data())
def test_order_does_not_depend_on_arrival(history: History, data: st.DataObject) -> None:
    shuffled = tuple(data.draw(st.permutations(history.events)))
    placed = order_events(history.events)
    assert order_events(shuffled) == placed
    assert placed[0][1] == history.created
    assert [at_us for at_us, _ in placed] == sorted(at_us for at_us, _ in placed)


def at(time_us: int, action: str, sequence: int | None = None, source: str = "p") -> Event:
    return Event(source, f"{action}{time_us}", f"container.{action}", time_us, sequence)


def placed(*events: Event) -> list[tuple[int, str]]:
    return [(at_us, event.type.split(".")[1]) for at_us, event in order_events(events)]


def test_events_of_one_instant_have_their_rank() -> None:
    events = [at(9, action) for action in ("deleted", "stopped", "resized", "started", "created")]
    assert [action for _, action in placed(*events)] == ["created", "started", "resized", "stopped", "deleted"]


def test_a_sequence_beats_the_clock_and_moves_an_event_to_the_one_before_it() -> None:
    events = (at(10, "created", 1), at(50, "started", 2), at(40, "stopped", 3))
    assert placed(*events) == [(10, "created"), (50, "started"), (50, "stopped")]


@pytest.mark.parametrize(
    "spoilt", [at(40, "stopped", None), at(40, "stopped", 3, source="q")], ids=["no sequence", "second source"]
)
def test_a_sequence_counts_only_if_all_have_it_from_one_source(spoilt: Event) -> None:
    events = (at(10, "created", 1), at(50, "started", 2), spoilt)
    assert placed(*events) == [(10, "created"), (40, "stopped"), (50, "started")]


def test_what_lies_before_the_creation_is_clamped_in_its_order() -> None:
    # Sorted anew at the creation's instant, started would come before stopped.
    assert placed(at(3, "stopped"), at(4, "started"), at(10, "created")) == [
        (10, "created"),
        (10, "stopped"),
        (10, "started"),
    ]


def test_the_creation_stands_at_its_own_time_whatever_its_number() -> None:
    assert placed(at(50, "started", 1), at(10, "created", 2)) == [(10, "created"), (50, "started")]


def test_a_history_has_exactly_one_creation_and_only_known_events() -> None:
    created = at(1, "created")
    for events in ((), (at(1, "started"),), (created, replace(created, event_id="again")), (created, at(2, "paused"))):
        with pytest.raises(Corruption):
            order_events(events)
    with pytest.raises(Corruption):
        _ = History((), 60).created
