"""The order of lifecycle events: what holds of any set of them, and the rule's own examples."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.lifecycle_order import order_lifecycle
from tests.unit import naive_order


@dataclass(frozen=True)
class Fact:
    source: str
    event_id: str
    type: str
    time_us: int
    sequence: int | None = None
    run_id: str | None = None


def fact(
    action: str, time_us: int, sequence: int | None = None, *, run: str | None = None, source: str = "p", name: str = ""
) -> Fact:
    return Fact(source, name or f"{action}{time_us}", f"container.{action}", time_us, sequence, run)


@st.composite
def facts(draw: st.DrawFn, size_max: int = 9) -> list[Fact]:
    """Events dense in equal instants and numbers; most lives are numbered throughout or not at all."""
    numbering = draw(st.sampled_from(["none", "none", "unique", "some", "any"]))
    named = draw(st.sampled_from([0, 0, 1, 2]))
    count = draw(st.integers(0, size_max))
    numbers = draw(st.permutations(range(size_max + 1)))
    found = []
    for number in range(count + 1):
        action = "created"
        if number:
            action = draw(
                st.sampled_from(["started", "started", "started", "stopped", "stopped", "resized", "deleted"])
            )
        sequence = None
        if numbering == "unique" or (numbering == "some" and draw(st.booleans())):
            sequence = numbers[number]
        if numbering == "any":
            sequence = draw(st.none() | st.integers(0, 4))
        run = None
        if action in ("started", "stopped") and draw(st.integers(0, 2)) < named:
            run = draw(st.sampled_from(["r1", "r2", "r3"]))
        source = draw(st.sampled_from(["p", "p", "q"]))
        time_us = draw(st.integers(0, 6))
        found.append(Fact(source, f"e{number}", f"container.{action}", time_us, sequence, run))
    return draw(st.permutations(found)) if draw(st.booleans()) else found


def steps(events: Sequence[Fact]) -> list[tuple[int, Fact, str]]:
    return [(item.at_us, item.event, item.effect) for item in order_lifecycle(events).placed]


@given(facts())
def test_a_second_implementation_agrees(events: list[Fact]) -> None:
    assert steps(events) == [tuple(step) for step in naive_order.order(events)]


@given(facts(), st.data())
def test_the_order_of_arrival_does_not_matter(events: list[Fact], data: st.DataObject) -> None:
    assert order_lifecycle(data.draw(st.permutations(events))) == order_lifecycle(events)


@given(facts())
def test_every_event_has_one_place_and_time_never_falls(events: list[Fact]) -> None:
    placed = order_lifecycle(events).placed
    assert sorted(item.event.event_id for item in placed) == sorted(event.event_id for event in events)
    created = next(event for event in events if event.type == "container.created")
    assert (placed[0].event, placed[0].at_us) == (created, created.time_us)
    instants = [item.at_us for item in placed]
    assert instants == sorted(instants)


@given(facts())
def test_nothing_after_the_end_counts_for_anything(events: list[Fact]) -> None:
    order = order_lifecycle(events)
    counted = [item for item in order.placed if item.effect != "after_the_end"]
    again = order_lifecycle([item.event for item in counted])
    assert list(again.placed) == counted
    assert again.sequences_conflict == order.sequences_conflict


@given(facts())
def test_a_stop_that_names_a_run_ends_that_run_and_no_other(events: list[Fact]) -> None:
    order = order_lifecycle(events)
    counted = [item for item in order.placed if item.effect != "after_the_end"]
    stopped = {item.event.run_id for item in counted if item.event.type.endswith("stopped")}
    started = {item.event.run_id for item in counted if item.event.type.endswith("started")}
    for item in counted:
        if item.event.type.endswith("stopped") and item.event.run_id in started and item.ended is not None:
            assert item.event.run_id in (None, item.ended.run_id)
    if order.running is not None and order.running.run_id is not None:
        assert order.running.run_id not in stopped


@given(facts())
def test_a_chain_keeps_its_order(events: list[Fact]) -> None:
    order = order_lifecycle(events)
    if order.sequences_conflict or any(event.run_id for event in events):
        return
    numbers = [
        item.event.sequence
        for item in order.placed[1:]
        if item.event.sequence is not None and item.effect != "after_the_end"
    ]
    assert numbers == sorted(numbers)


@given(facts(), st.integers(0, 6))
def test_an_event_without_sequence_moves_no_other(events: list[Fact], time_us: int) -> None:
    if any(event.run_id for event in events) or any(event.type.endswith("deleted") for event in events):
        return
    extra = Fact("x", "extra", "container.resized", time_us)
    places = {item.event.event_id: item.at_us for item in order_lifecycle(events).placed}
    for item in order_lifecycle([*events, extra]).placed:
        if item.event is not extra:
            assert places[item.event.event_id] == item.at_us


@given(facts(6), facts(2), st.integers(0, 7))
def test_what_leaves_the_past_alone_does(events: list[Fact], more: list[Fact], at_us: int) -> None:
    order = order_lifecycle(events)
    for extra in more[1:]:
        event = Fact(extra.source, "extra", extra.type, extra.time_us, extra.sequence, extra.run_id)
        if event.type == "container.created" or not order.leaves_past_alone(event, at_us):
            continue
        past = [item for item in order.placed if item.at_us < at_us and item.effect != "after_the_end"]
        with_it = [item for item in order_lifecycle([*events, event]).placed if item.at_us < at_us]
        assert [item for item in with_it if item.effect != "after_the_end"] == past


def test_what_leaves_the_past_alone_is_seen_cheaply() -> None:
    order = order_lifecycle([fact("created", 0, 1), fact("started", 5, 2, run="r")])
    assert order.leaves_past_alone(fact("stopped", 9, 3), 9)
    assert order.leaves_past_alone(fact("stopped", 9), 9)
    assert not order.leaves_past_alone(fact("stopped", 8, 3), 9)
    assert not order.leaves_past_alone(fact("stopped", 9, 1), 9)
    waiting = order_lifecycle([fact("created", 0), fact("started", 1), fact("stopped", 2, run="r")])
    assert not waiting.leaves_past_alone(fact("started", 9, run="r"), 9), "the stop moves to its run"


def verbs(*events: Fact) -> list[str]:
    return [f"{item.at_us} {item.event.event_id} {item.effect}".strip() for item in order_lifecycle(events).placed]


CREATED = fact("created", 0, name="c")


def test_at_one_instant_the_state_decides() -> None:
    # A restart within the resolution of the clock: what was running runs on, what was stopped is stopped again.
    stop, start = fact("stopped", 5, name="a-stop"), fact("started", 5, name="b-start")
    assert verbs(CREATED, fact("started", 1, name="s"), start, stop)[2:] == ["5 a-stop", "5 b-start"]
    assert verbs(CREATED, start, stop)[1:] == ["5 b-start", "5 a-stop"]
    resize, delete = fact("resized", 5, name="z"), fact("deleted", 5, name="0")
    assert verbs(CREATED, delete, stop, start, resize)[1:] == ["5 z", "5 b-start", "5 a-stop", "5 0"]
    more = fact("started", 5, name="c-start")
    assert verbs(CREATED, start, stop, more)[1:] == ["5 b-start", "5 a-stop", "5 c-start"]


def test_a_sequence_beats_the_clock_and_the_state() -> None:
    assert verbs(CREATED, fact("started", 50, 2, name="s"), fact("stopped", 40, 3, name="t"))[1:] == ["50 s", "50 t"]
    stop, start = fact("stopped", 5, 2, name="t"), fact("started", 5, 3, name="s")
    assert verbs(CREATED, start, stop)[1:] == ["5 t ends_no_run", "5 s"]


def test_one_chain_over_all_sources_while_no_number_occurs_twice() -> None:
    events = [fact("started", 50, 2, name="s"), fact("stopped", 40, 3, source="q", name="t")]
    assert verbs(CREATED, *events)[1:] == ["50 s", "50 t"]
    twice = fact("resized", 60, 2, source="q", name="r")
    order = order_lifecycle([CREATED, *events, twice])
    assert order.sequences_conflict
    # q's chain is r, then t: t takes effect no earlier than r.
    assert verbs(CREATED, *events, twice)[1:] == ["50 s", "60 r", "60 t"]


def test_an_event_without_sequence_stands_at_its_own_time_in_a_numbered_life() -> None:
    numbered = [fact("started", 50, 2, name="s"), fact("stopped", 40, 3, name="t")]
    assert verbs(CREATED, *numbered, fact("resized", 45, name="r"))[1:] == ["45 r", "50 s", "50 t"]


def test_a_stop_that_names_its_run_ends_it_whatever_its_clock_says() -> None:
    start, early = fact("started", 30, run="r", name="s"), fact("stopped", 10, run="r", name="t")
    assert verbs(CREATED, early, start)[1:] == ["30 s", "30 t"]
    # By number too: the name says more than the number.
    assert verbs(CREATED, fact("stopped", 10, 1, run="r", name="t"), fact("started", 30, 2, run="r", name="s"))[1:] == [
        "30 s",
        "30 t",
    ]
    late, second = fact("stopped", 60, run="r", name="t"), fact("started", 40, run="r2", name="s2")
    order = order_lifecycle([CREATED, start, second, late])
    assert order.running == second
    assert [item.effect for item in order.placed] == ["", "", "", "ends_no_run"]


def test_a_stop_without_a_name_ends_any_run_and_a_stray_name_only_one_without() -> None:
    assert order_lifecycle([CREATED, fact("started", 1, run="r"), fact("stopped", 2)]).running is None
    assert order_lifecycle([CREATED, fact("started", 1), fact("stopped", 2, run="r")]).running is None
    named = order_lifecycle([CREATED, fact("started", 1, run="r"), fact("stopped", 2, run="other")])
    assert named.running is not None


def test_a_run_begins_once() -> None:
    start, stop, again = (
        fact("started", 1, run="r"),
        fact("stopped", 2, run="r"),
        fact("started", 3, run="r", source="q"),
    )
    order = order_lifecycle([CREATED, start, stop, again])
    assert order.running is None
    assert order.placed[-1].effect == "run_has_begun"


def test_a_stop_of_no_run_and_what_follows_the_end_have_no_effect() -> None:
    events = [CREATED, fact("stopped", 1, name="t"), fact("deleted", 2, name="d"), fact("started", 3, name="s")]
    order = order_lifecycle(events)
    assert [item.effect for item in order.placed] == ["", "ends_no_run", "", "after_the_end"]
    assert [item.event.event_id for item in order.without_effect] == ["t", "s"]
    assert (order.ended_us, order.running) == (2, None)


def test_what_comes_after_the_end_is_no_reason_to_part_the_chains() -> None:
    numbered = [fact("started", 50, 2, name="s"), fact("stopped", 40, 3, source="q", name="t")]
    end, late = fact("deleted", 60, 4, name="d"), fact("started", 70, 3, source="z", name="x")
    order = order_lifecycle([CREATED, *numbered, end, late])
    assert not order.sequences_conflict
    assert [item.at_us for item in order.placed] == [0, 50, 50, 60, 70]


def test_what_lies_before_the_creation_is_clamped_in_its_order() -> None:
    created = fact("created", 10, name="c")
    assert verbs(fact("stopped", 3, name="t"), fact("started", 4, name="s"), created) == [
        "10 c",
        "10 t ends_no_run",
        "10 s",
    ]


def test_the_creation_stands_at_its_own_time_whatever_its_number() -> None:
    assert verbs(fact("started", 50, 1, name="s"), fact("created", 10, 2, name="c")) == ["10 c", "50 s"]


def test_what_ended_a_run_is_told() -> None:
    first, second = fact("started", 1, name="s1"), fact("started", 2, name="s2")
    order = order_lifecycle(
        [CREATED, first, second, fact("stopped", 3), fact("started", 4, name="s3"), fact("deleted", 9)]
    )
    assert [None if item.ended is None else item.ended.event_id for item in order.placed] == [
        None,
        None,
        "s1",
        "s2",
        None,
        "s3",
    ]


@pytest.mark.parametrize("events", [[fact("paused", 1)], [CREATED, fact("created", 2)]])
def test_what_is_no_life_is_refused(events: list[Fact]) -> None:
    with pytest.raises(ValueError, match=r"created once|no type"):
        order_lifecycle(events)


def test_a_life_without_its_creation_is_ordered_too() -> None:
    assert verbs(fact("started", 5, name="s"), fact("stopped", 4, name="t")) == ["4 t ends_no_run", "5 s"]
    assert verbs() == []
