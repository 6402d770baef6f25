"""Histories: stored form, order of events, and what becomes of what lies before, after and beside a life."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.metering.rules.history import Draft, Event, History, Replaced, decode_history, encode_history
from shared.errors import Corruption

OPTIONAL = st.none() | st.integers(-(2**63), 2**63 - 1)
EVENTS = st.builds(
    Event,
    source=st.text(),
    event_id=st.text(),
    type=st.sampled_from(["container.created", "container.stopped", "volume.resized"]),
    time_us=st.integers(-(2**63), 2**63 - 1),
    sequence=OPTIONAL,
    gpu_sku=st.none() | st.text(),
    gpu_count=OPTIONAL,
    storage_gb=OPTIONAL,
    run_id=st.none() | st.text(),
)
ANY_HISTORY = st.builds(
    History,
    events=st.lists(EVENTS, max_size=5).map(tuple),
    slot_seconds=st.integers(1, 86_400),
    function_version=st.integers(1, 9),
    commanded_us=OPTIONAL,
    confirmed_until_us=OPTIONAL,
    replaced=st.lists(st.builds(Replaced, EVENTS, st.tuples(st.text(), st.text()), st.none() | st.text())).map(tuple),
)


@given(ANY_HISTORY)
def test_what_is_stored_is_what_is_read(history: History) -> None:
    assert decode_history(encode_history(history)) == history


@pytest.mark.parametrize("data", [b"", b"null", b"{}", b"[1,2]", b"[1,60,1,null,null,[]]", b"[2,60,1,null,null,[[1]]]"])
def test_what_is_no_history_is_a_corruption(data: bytes) -> None:
    with pytest.raises(Corruption):
        decode_history(data)


CREATED = Event("p", "c", "container.created", 1, gpu_count=1)


def test_a_history_has_exactly_one_creation_and_only_known_events() -> None:
    started = Event("p", "s", "container.started", 1)
    again, unknown = replace(CREATED, event_id="again"), replace(started, type="container.paused")
    for events in ((), (started,), (CREATED, again), (CREATED, unknown)):
        with pytest.raises(Corruption):
            _ = History(events, 60).order
    with pytest.raises(Corruption):
        _ = History((), 60).created


def test_a_draft_gathers_events_and_knows_what_was_replaced() -> None:
    stop, better = Event("p", "t", "container.stopped", 9), Event("p", "u", "container.stopped", 5)
    draft = Draft(History((CREATED, stop), 60, commanded_us=7))
    draft.replace(stop.key, better.key, better, "the clock was wrong")
    assert draft.find(stop.key) == stop
    assert draft.find(better.key) == better
    written = draft.history(History((CREATED, stop), 60, commanded_us=7))
    assert written == History(
        (CREATED, better), 60, commanded_us=7, replaced=(Replaced(stop, better.key, "the clock was wrong"),)
    )
    again = Draft(written)
    assert not again.is_amended
    again.replace(better.key, ("p", "retraction"), None, None)
    assert again.history(written).events == (CREATED,)
    assert again.created == CREATED
