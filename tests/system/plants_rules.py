"""Bugs to plant in the pure rules of metering."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from services.metering.rules import charge, history, segments, timeline
from services.metering.rules.history import History
from shared.lifecycle_order import Order, Placed

# How a plant changes an attribute: the built-in setattr, or a test's monkeypatch that undoes it.
SetAttribute = Callable[[Any, str, Any], None]
Plant = Callable[[SetAttribute], None]


def float_rounding(put: SetAttribute) -> None:
    """Money as floating point, rounded to the nearest."""

    def rounded(slots: int, price_micros: int, slot_seconds: int) -> int:
        return round(slots * (price_micros / 1e6) * (slot_seconds / 3600) * 1e6)

    put(segments, "cumulative_charge", rounded)


def slot_off_by_one(put: SetAttribute) -> None:
    """A storage slot is due when it ends, not when it begins."""

    def first_slot_from(bounds: Any, at_us: int) -> int:
        return int((at_us - bounds.created_us) // bounds.slot_us)

    put(charge._Bounds, "first_slot_from", first_slot_from)


def k_goes_on(put: SetAttribute) -> None:
    """The count of slots goes on when the price changes, so that its remainder is carried from one price to another."""
    original = segments.Tally.segments

    def carried(tally: segments.Tally, slot_seconds: int) -> tuple[segments.Segment, ...]:
        found, before = [], 0
        for part in original(tally, slot_seconds):
            amounts = [k * part.price_micros * slot_seconds // 3600 for k in (before, before + part.slots)]
            found.append(replace(part, amount_micros=amounts[1] - amounts[0]))
            before += part.slots
        return tuple(found)

    put(segments.Tally, "segments", carried)


def stopped_storage_is_free(put: SetAttribute) -> None:
    """Persistent storage is billed only while the container runs."""
    original = timeline.build_timeline

    def without(found: History) -> timeline.Timeline:
        built = original(found)
        states = tuple(
            state._replace(storage_gb=state.storage_gb if state.phase == "running" else 0) for state in built.states
        )
        return replace(built, states=states)

    put(charge, "build_timeline", without)


def cheapest_of_a_slot(put: SetAttribute) -> None:
    """The latest configuration of a slot is charged, not the dearest."""
    put(segments.Tally, "last_price_micros", property(lambda _tally: 0))


def price_at_the_end_of_a_slot(put: SetAttribute) -> None:
    """A price that changes within a slot is taken for the whole slot."""

    def slot_at(tally: Any, at_us: int) -> int:
        return int((at_us - tally._created_us) // tally._slot_us)

    put(segments.Tally, "_slot_at", slot_at)


def order_of_arrival(put: SetAttribute) -> None:
    """Events are replayed as they came."""

    def as_they_came(events: Any) -> Any:
        created = next(event for event in events if event.type.endswith(".created"))
        placed, ended_us = [Placed(created.time_us, created)], None
        for event in events:
            if event is not created:
                at_us = max(placed[-1].at_us, event.time_us)
                placed.append(Placed(at_us, event, "" if ended_us is None else "after_the_end"))
                ended_us = at_us if event.type.endswith(".deleted") and ended_us is None else ended_us
        return Order(
            placed=tuple(placed),
            running=None,
            ended_us=ended_us,
            sequences_conflict=False,
            _sequence_max=-1,
            _unstarted=frozenset(),
            _has_moved_stops=False,
            _is_simple=False,
        )

    put(history, "order_lifecycle", as_they_came)


def created_is_running(put: SetAttribute) -> None:
    """GPUs are billed from the creation on, whether the container was started or not."""
    original = timeline._after

    def running(state: timeline.State, placed: Any) -> timeline.State:
        after = original(state, placed)
        return after._replace(phase="running") if placed.event.type == "container.created" else after

    put(timeline, "_after", running)


RULE_PLANTS: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (
        float_rounding,
        slot_off_by_one,
        k_goes_on,
        stopped_storage_is_free,
        cheapest_of_a_slot,
        price_at_the_end_of_a_slot,
        order_of_arrival,
        created_is_running,
    )
}
