"""What a resource costs up to an instant: a pure function of its history and the prices.

Slot i of a resource is `[created + i·s, created + (i+1)·s)`. The sum of all lines ever published for a resource equals
`charge(history as known, prices, through)`; ticks and corrections (lines.py) are differences of two such values.

The work is proportional to events plus price changes, never to slots. Measured on two shared cores with Python 3.11:
see the docstring of tests/unit/metering/test_charge.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

from services.metering.rules.history import History
from services.metering.rules.prices import GPU, PERSISTENT, STORAGE, PriceTable
from services.metering.rules.segments import Segment, Tally, total
from services.metering.rules.timeline import State, Timeline, build_timeline
from shared.errors import Corruption
from shared.money import HOUR_SECONDS

__all__ = ["Cursor", "Segment", "Steady", "burn_at", "charge", "hourly_price", "steady", "total"]

SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The grid of a resource and how far it is charged: instants before `limit_us`, slots before `slots_to`."""

    created_us: int
    slot_us: int
    limit_us: int
    slots_to: int

    def first_slot_from(self, at_us: int) -> int:
        """The first slot that starts at or after an instant."""
        return -((self.created_us - at_us) // self.slot_us)


def charge(history: History, prices: PriceTable, through_us: int) -> tuple[Segment, ...]:
    """Everything charged for what happened before `through_us`, by the function with which the resource began.

    GPU segments come first, then storage; each kind ascends in slots. Raises Corruption for a history that can't be
    replayed or an unknown function version.
    """
    return _charge_along(build_timeline(history), history, prices, through_us)


def _charge_along(timeline: Timeline, history: History, prices: PriceTable, through_us: int) -> tuple[Segment, ...]:
    """`charge` for who has the timeline of the history already: replaying it is a good part of the work."""
    version = _VERSIONS.get(history.function_version)
    if version is None:
        raise Corruption(f"no charge function of version {history.function_version}")
    return version(timeline, history, prices, through_us)


def _charge_v1(timeline: Timeline, history: History, prices: PriceTable, through_us: int) -> tuple[Segment, ...]:
    bounds = _bounds(history, timeline, through_us)
    if bounds.slots_to <= 0:
        return ()
    gpu = Tally(GPU, bounds.created_us, bounds.slot_us)
    storage = Tally(STORAGE, bounds.created_us, bounds.slot_us)
    for state, next_us in timeline.intervals():
        if state.from_us >= bounds.limit_us:
            break
        if state.phase == "running" and state.gpu_sku is not None and state.gpu_count > 0:
            to_us = bounds.limit_us if next_us is None else min(next_us, bounds.limit_us)
            _take_gpu(gpu, bounds, prices, state, to_us)
    _take_storage(storage, bounds, prices, timeline)
    return gpu.segments(history.slot_seconds) + storage.segments(history.slot_seconds)


_VERSIONS: dict[int, Callable[[Timeline, History, PriceTable, int], tuple[Segment, ...]]] = {1: _charge_v1}


def _bounds(history: History, timeline: Timeline, through_us: int) -> _Bounds:
    slot_us = history.slot_seconds * SECOND_US
    limit_us = through_us
    if timeline.charge_end_us is not None:
        limit_us = min(limit_us, timeline.charge_end_us)
    last_start_us = limit_us
    if history.confirmed_until_us is not None:
        last_start_us = min(last_start_us, history.confirmed_until_us)
    # A slot that starts at the limit or later has no instant before it.
    slots_to = -((timeline.created_us - last_start_us) // slot_us)
    return _Bounds(timeline.created_us, slot_us, limit_us, slots_to)


def _take_gpu(tally: Tally, bounds: _Bounds, prices: PriceTable, state: State, to_us: int) -> None:
    """Charge the slots that the running interval `[state.from_us, to_us)` touches.

    Its first slot may have been charged already for an interval before it: then the dearer stays, of equals the later.
    """
    assert state.gpu_sku is not None
    schedule = prices.schedule(GPU, state.gpu_sku)
    slot_from = (state.from_us - bounds.created_us) // bounds.slot_us
    slot_to = min((to_us - 1 - bounds.created_us) // bounds.slot_us + 1, bounds.slots_to)
    if slot_from == tally.end - 1:
        unit_price = prices.unit_price(GPU, state.gpu_sku, bounds.created_us + slot_from * bounds.slot_us)
        if unit_price is not None and unit_price * state.gpu_count >= tally.last_price_micros:
            tally.give_back()
        else:
            slot_from += 1
    tally.take(state.gpu_sku, state.gpu_count, schedule, slot_from, slot_to)


def _take_storage(tally: Tally, bounds: _Bounds, prices: PriceTable, timeline: Timeline) -> None:
    """Charge every slot from creation to the limit, at the size as at its start."""
    schedule = prices.schedule(STORAGE, PERSISTENT)
    sizes = timeline.configurations
    for position, size in enumerate(sizes):
        if size.from_us >= bounds.limit_us:
            break
        if size.storage_gb > 0:
            # At the deletion the limit ends it: a deleted resource keeps its last configuration.
            last = position + 1 == len(sizes)
            slot_to = (
                bounds.slots_to if last else min(bounds.first_slot_from(sizes[position + 1].from_us), bounds.slots_to)
            )
            tally.take(PERSISTENT, size.storage_gb, schedule, bounds.first_slot_from(size.from_us), slot_to)


def hourly_price(segments: tuple[Segment, ...]) -> int:
    """The most that a resource has cost per hour, in micros: the dearest segments of its kinds together."""
    dearest: dict[str, int] = {}
    for segment in segments:
        dearest[segment.kind] = max(dearest.get(segment.kind, 0), segment.price_micros)
    return sum(dearest.values())


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a kind goes on billing if nothing more happens and no price changes.

    The n slots that fall due in `[through, t)` cost exactly `(n·p·slot_seconds + carried) // 3600` micros, with p =
    `price_micros` (unit price times quantity, per hour), and leave that sum modulo 3600 to carry on. Slot `next_slot`
    falls due at `next_due_us`, each further one a slot length later. `remainder` belongs to `last_price_micros`, at
    which this SKU and quantity was charged last (-1: something else was): a slot carries it on only at that price.
    """

    kind: str
    sku: str
    quantity: int
    price_micros: int
    next_slot: int
    next_due_us: int
    last_price_micros: int
    remainder: int

    @property
    def carried(self) -> int:
        return self.remainder if self.last_price_micros == self.price_micros else 0


@dataclass(frozen=True, slots=True)
class Steady:
    """A resource to which nothing happens any more at or after `through`, as far as is known.

    `cursors` has each kind that goes on billing; none for what is over. `unpriced` are (kind, SKU) that run or exist
    without a price in force: they begin to bill when they get one, so whoever keeps cursors re-derives then.
    """

    cursors: tuple[Cursor, ...]
    burn_micros_per_hour: int
    unpriced: tuple[tuple[str, str], ...] = ()


def steady(history: History, prices: PriceTable, through_us: int) -> Steady | None:
    """The cursors of a resource that has come to rest before `through_us`, None if something is still to happen.

    Where the price of a cursor's SKU changes later, the caller ends its window at that instant and derives anew.
    A resource that is confirmed by inventory up to a later instant is not at rest, but bills like one without that
    bound in every window that ends by then: for it a caller may ask with `confirmed_until_us=None`.
    """
    timeline = build_timeline(history)
    if timeline.charge_end_us is not None and timeline.charge_end_us < through_us:
        return Steady((), 0)
    stops = (timeline.last_change_us, history.commanded_us, history.confirmed_until_us)
    if any(stop_us is not None and stop_us >= through_us for stop_us in stops):
        return None
    if history.confirmed_until_us is not None:
        return Steady((), 0)
    bounds = _bounds(history, timeline, through_us)
    charged = _charge_along(timeline, history, prices, through_us)
    cursors: list[Cursor] = []
    unpriced: list[tuple[str, str]] = []
    for kind, sku, quantity in _billing(timeline.states[-1]):
        # A slot that began before `through` is settled: nothing has changed since an instant before it.
        due_us = bounds.created_us + bounds.slots_to * bounds.slot_us
        unit_price = prices.unit_price(kind, sku, due_us)
        if unit_price is None:
            unpriced.append((kind, sku))
            continue
        last = next((segment for segment in reversed(charged) if segment.kind == kind), None)
        last_price, remainder = -1, 0
        if last is not None and (last.sku, last.quantity) == (sku, quantity):
            last_price = last.price_micros
            remainder = last.slots * last_price * history.slot_seconds % HOUR_SECONDS
        price = unit_price * quantity
        cursors.append(Cursor(kind, sku, quantity, price, bounds.slots_to, due_us, last_price, remainder))
    return Steady(tuple(cursors), sum(cursor.price_micros for cursor in cursors), tuple(unpriced))


def burn_at(history: History, prices: PriceTable, at_us: int) -> int:
    """Micros per hour of what runs and exists at an instant, at the prices in force then."""
    timeline = build_timeline(history)
    if timeline.charge_end_us is not None and timeline.charge_end_us <= at_us:
        return 0
    if history.confirmed_until_us is not None and history.confirmed_until_us <= at_us:
        return 0
    return sum(
        (prices.unit_price(kind, sku, at_us) or 0) * quantity
        for kind, sku, quantity in _billing(timeline.state_at(at_us))
    )


def _billing(state: State) -> list[tuple[str, str, int]]:
    """(kind, SKU, quantity) of what a state is charged for."""
    kinds: list[tuple[str, str, int]] = []
    if state.phase == "running" and state.gpu_sku is not None and state.gpu_count > 0:
        kinds.append((GPU, state.gpu_sku, state.gpu_count))
    if state.phase in {"running", "stopped"} and state.storage_gb > 0:
        kinds.append((STORAGE, PERSISTENT, state.storage_gb))
    return kinds
