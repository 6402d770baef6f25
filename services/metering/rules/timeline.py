"""What a resource was at which instant: its history as a run of states over half-open intervals."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from services.metering.rules.history import CONFIGURES, CREATED, DELETED, Event, History
from shared.lifecycle_order import Placed

Phase = Literal["absent", "running", "stopped", "deleted"]
RunId = tuple[str, str]


class State(NamedTuple):
    """A resource from `from_us` until the next state begins. `run` is (source, id) of the `started` it runs by."""

    from_us: int
    phase: Phase
    gpu_sku: str | None
    gpu_count: int
    storage_gb: int
    run: RunId | None


class Configuration(NamedTuple):
    from_us: int
    gpu_sku: str | None
    gpu_count: int
    storage_gb: int


class Piece(NamedTuple):
    """An interval `[from_us, to_us)` of running in one state; `to_us` is None while it lasts."""

    from_us: int
    to_us: int | None
    gpu_sku: str | None
    gpu_count: int
    run: RunId | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """The life of a resource.

    `states` ascend strictly in `from_us`: where several events share an instant the last of them stands, so that
    empty intervals do not exist. `charge_end_us` is the earlier of deletion and the commanded deletion, None while
    neither is known. `ignored` are the events after the earliest deletion. Events without effect make no state.
    """

    created_us: int
    ended_us: int | None
    charge_end_us: int | None
    states: tuple[State, ...]
    ignored: tuple[Event, ...]

    @property
    def last_change_us(self) -> int:
        """The instant of the last event that had an effect or could have had one."""
        return self.states[-1].from_us

    @property
    def configurations(self) -> tuple[Configuration, ...]:
        """The configurations in order, each from the instant it replaced another."""
        found: list[Configuration] = []
        last: tuple[str | None, int, int] | None = None
        for state in self.states:
            stated = state[2:5]
            if stated != last:
                found.append(Configuration(state.from_us, *stated))
                last = stated
        return tuple(found)

    @property
    def running(self) -> tuple[Piece, ...]:
        """The intervals in which it ran, cut where a run or a configuration begins."""
        return tuple(
            Piece(state.from_us, to_us, state.gpu_sku, state.gpu_count, state.run)
            for state, to_us in self.intervals()
            if state.phase == "running"
        )

    def intervals(self) -> Iterator[tuple[State, int | None]]:
        """Each state with the instant at which the next one begins, None for the last."""
        states = self.states
        for position in range(len(states) - 1):
            yield states[position], states[position + 1].from_us
        yield states[-1], None

    def state_at(self, at_us: int) -> State:
        """The state at an instant, all events of that instant included; `absent` before the creation."""
        position = bisect_right(self.states, at_us, key=_from_us)
        if position == 0:
            return State(at_us, "absent", None, 0, 0, None)
        return self.states[position - 1]


def _from_us(state: State) -> int:
    return state.from_us


def build_timeline(history: History) -> Timeline:
    """Replay the ordered events. Raises Corruption for a history that has no order."""
    order = history.order
    created_us = order.placed[0].at_us
    states: list[State] = []
    state = State(created_us, "absent", None, 0, 0, None)
    for placed in order.placed:
        if placed.effect:
            continue
        state = _after(state, placed)
        if states and states[-1].from_us == placed.at_us:
            states[-1] = state
        else:
            states.append(state)
    ignored: tuple[Event, ...] = ()
    if order.ended_us is not None:
        ignored = tuple(placed.event for placed in order.placed if placed.effect == "after_the_end")
    ends = [end for end in (order.ended_us, history.commanded_us) if end is not None]
    return Timeline(created_us, order.ended_us, min(ends, default=None), tuple(states), ignored)


def _after(state: State, placed: Placed[Event]) -> State:
    """The state that an event with an effect makes of another."""
    event = placed.event
    phase, run = state.phase, state.run
    if event.type == "container.started":
        # Of a running container this names a new run; the interval goes on.
        phase, run = "running", event.key
    elif event.type == "container.stopped" or event.type in CREATED:
        phase, run = "stopped", None
    elif event.type in DELETED:
        phase, run = "deleted", None
    sku, count, storage_gb = state.gpu_sku, state.gpu_count, state.storage_gb
    if event.type in CONFIGURES:
        sku = sku if event.gpu_sku is None else event.gpu_sku
        count = count if event.gpu_count is None else event.gpu_count
        storage_gb = storage_gb if event.storage_gb is None else event.storage_gb
    return State(placed.at_us, phase, sku, count, storage_gb, run)
