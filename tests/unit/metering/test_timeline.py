"""Timelines: the state at every instant against a replay, runs by their names, intervals half-open."""

from hypothesis import given
from hypothesis import strategies as st

from services.metering.rules.history import Event, History
from services.metering.rules.timeline import Configuration, Piece, build_timeline
from tests.unit import naive_order
from tests.unit.metering import brute_force
from tests.unit.metering.lives import histories, instants


@given(histories(), st.data())
def test_the_state_at_any_instant_is_that_of_a_replay(history: History, data: st.DataObject) -> None:
    timeline = build_timeline(history)
    life = brute_force.live(history)
    at_us = data.draw(instants(history.slot_seconds) | st.sampled_from([at_us for at_us, _ in life.facts]))
    state = timeline.state_at(at_us)
    running, sku, count, size_gb = brute_force.replay(life, at_us)
    assert (state.phase == "running") == running
    assert (state.gpu_sku, state.gpu_count, state.storage_gb) == (sku, count, size_gb)
    assert (state.phase == "absent") == (at_us < life.created_us)
    assert (state.phase == "deleted") == (life.deleted_us is not None and at_us >= life.deleted_us)


@given(histories())
def test_a_timeline_is_a_chain_of_half_open_intervals(history: History) -> None:
    timeline = build_timeline(history)
    starts = [state.from_us for state in timeline.states]
    assert starts == sorted(set(starts))
    assert starts[0] == timeline.created_us
    assert timeline.last_change_us == starts[-1]
    life = brute_force.live(history)
    assert timeline.ended_us == life.deleted_us
    ends = [end for end in (life.deleted_us, history.commanded_us) if end is not None]
    assert timeline.charge_end_us == (min(ends) if ends else None)
    assert list(timeline.ignored) == [
        step.event for step in naive_order.order(history.events) if step.effect == "after_the_end"
    ]
    for piece in timeline.running:
        assert piece.to_us is None or piece.from_us < piece.to_us
        assert timeline.state_at(piece.from_us).run == piece.run


def event(time_us: int, action: str, event_id: str = "", gpu_count: int | None = None) -> Event:
    return Event("p", event_id or f"{action}{time_us}", f"container.{action}", time_us, gpu_count=gpu_count)


CREATED = Event("p", "c", "container.created", 100, gpu_sku="h100", gpu_count=1, storage_gb=5)


def test_a_run_is_named_by_its_start_and_a_start_while_running_names_a_new_one() -> None:
    timeline = build_timeline(
        History((CREATED, event(200, "started", "one"), event(300, "started", "two"), event(400, "stopped")), 60)
    )
    assert timeline.running == (
        Piece(200, 300, "h100", 1, ("p", "one")),
        Piece(300, 400, "h100", 1, ("p", "two")),
    )
    assert timeline.state_at(250).run == ("p", "one")
    assert timeline.state_at(400).run is None
    assert timeline.state_at(99).phase == "absent"


def test_a_resize_changes_only_what_it_states() -> None:
    timeline = build_timeline(History((CREATED, event(200, "resized", gpu_count=4), event(300, "started")), 60))
    assert timeline.configurations == (Configuration(100, "h100", 1, 5), Configuration(200, "h100", 4, 5))


def test_what_follows_the_deletion_is_reported_and_changes_nothing() -> None:
    late = event(301, "started")
    second = event(400, "deleted")
    timeline = build_timeline(History((second, CREATED, event(300, "deleted"), late), 60))
    assert timeline.ended_us == 300
    assert timeline.ignored == (late, second)
    assert timeline.running == ()


def test_configuration_in_an_event_that_does_not_configure_is_not_read() -> None:
    timeline = build_timeline(History((CREATED, event(200, "started", gpu_count=9)), 60))
    assert timeline.state_at(200).gpu_count == 1
