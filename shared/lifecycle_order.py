"""The order of a resource's lifecycle events, for every service: a pure function of the set of its events.

The rule (docs/adr/0008):

- Events with a `sequence` form a chain: one over all sources while no number occurs twice, else one per source. Along a
  chain an event takes effect at max(effective time before it, its own time). An event without `sequence` takes effect
  at its own time and moves no other.
- A `stopped` that names its run (`run_id`) takes effect no earlier than the `started` of that run, and ends that run
  alone. If no `started` names the run, it ends a run without a name. A run begins once: a further `started` of its name
  has no effect.
- All are merged by effective time. At one instant, chains keep their order; otherwise `resized` comes first, then what
  has an effect in the state reached (running: a stop; not running: a start), then what has none, `deleted` last; of
  equals the smaller (source, id).
- Nothing counts from the earliest effective `deleted` on, for the order of the others neither.
- The `created` comes first, at its own time; what lies before it is clamped to that time and keeps its order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

Effect = Literal["", "ends_no_run", "run_has_begun", "after_the_end"]

_VERBS = {
    f"{family}.{verb}": verb
    for family, verbs in {
        "container": ("created", "started", "stopped", "resized", "deleted"),
        "volume": ("created", "resized", "deleted"),
    }.items()
    for verb in verbs
}


class LifecycleFact(Protocol):
    """What the order asks of an event."""

    @property
    def source(self) -> str: ...
    @property
    def event_id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def time_us(self) -> int: ...
    @property
    def sequence(self) -> int | None: ...
    @property
    def run_id(self) -> str | None: ...


FactT = TypeVar("FactT", bound=LifecycleFact)


class Placed(NamedTuple, Generic[FactT]):
    """An event at its place. `at_us` is its effective time, `effect` why it has no effect (empty: it has one).

    `ended` is the `started` whose run it ended: of a stop, of a deletion, and of a start that replaces a running run.
    """

    at_us: int
    event: FactT
    effect: Effect = ""
    ended: FactT | None = None


@dataclass(slots=True)
class Order(Generic[FactT]):
    """The events of one resource in order; `placed[i].at_us` never falls.

    `running` is the `started` of the run that still runs after all of them, `ended_us` the effective time of the
    deletion. `sequences_conflict`: a number occurs twice before the end, so each source has a chain of its own.
    """

    placed: tuple[Placed[FactT], ...]
    running: FactT | None
    ended_us: int | None
    sequences_conflict: bool
    # What `leaves_past_alone` asks: the highest number, the runs that a stop names and no start, whether a stop was
    # moved to its start, whether one reading was enough.
    _sequence_max: int
    _unstarted: frozenset[str]
    _has_moved_stops: bool
    _is_simple: bool

    @property
    def without_effect(self) -> tuple[Placed[FactT], ...]:
        return tuple(item for item in self.placed if item.effect)

    def leaves_past_alone(self, event: LifecycleFact, at_us: int) -> bool:
        """Whether one more event can't change anything before `at_us`. False may also mean: not known cheaply."""
        if event.time_us < at_us or self.sequences_conflict or not self._is_simple:
            return False
        if event.sequence is not None and event.sequence <= self._sequence_max:
            return False
        if event.type == "container.started" and event.run_id in self._unstarted:
            return False
        return not (self._has_moved_stops and _VERBS.get(event.type) == "deleted")


class _Item(NamedTuple, Generic[FactT]):
    """An event with its effective time before clamping; `chain` and `place` name its position among numbered events."""

    base_us: int
    event: FactT
    verb: str
    chain: str | None
    place: int


def order_lifecycle(events: Sequence[FactT]) -> Order[FactT]:
    """Place the events of one resource, whatever the order in which they came.

    Raises ValueError for a type that is none of a lifecycle's, or more than one creation. The creation may be missing.
    """
    created, others = _split(events)
    plain = _order_plain(created, others)
    if plain is not None:
        return plain
    dropped: list[_Item[FactT]] = []
    while True:
        reading = _Reading(created, others, one_chain=True)
        repeats = reading.repeats_number
        if repeats:
            reading = _Reading(created, others, one_chain=False)
            if reading.late:
                # What comes after the end by these chains must not be the reason for which there are several.
                dropped += reading.late
                others = [item.event for item in reading.active]
                continue
        return reading.order(dropped, sequences_conflict=repeats)


def _split(events: Sequence[FactT]) -> tuple[FactT | None, list[FactT]]:
    created: FactT | None = None
    others: list[FactT] = []
    for event in events:
        verb = _VERBS.get(event.type)
        if verb is None:
            raise ValueError(f"{event.type!r} is no type of a lifecycle")
        if verb != "created":
            others.append(event)
        elif created is None:
            created = event
        else:
            raise ValueError("a resource is created once")
    return created, others


def _order_plain(created: FactT | None, others: list[FactT]) -> Order[FactT] | None:
    """The order of a life in which nothing contradicts anything, as most are; None if it takes the whole rule."""
    others.sort(key=_time)
    before_us = -(2**63) if created is None else created.time_us - 1
    number = -1 if created is None or created.sequence is None else created.sequence
    walk = _Walk(created, {})
    for event in others:
        if event.time_us <= before_us or event.run_id is not None or walk.ended_us is not None:
            return None
        before_us = event.time_us
        if event.sequence is not None:
            if event.sequence <= number:
                return None
            number = event.sequence
        walk.take(before_us, event, _VERBS[event.type])
    return Order(tuple(walk.placed), walk.running, walk.ended_us, False, number, _NO_NAMES, False, True)


_NO_NAMES: frozenset[str] = frozenset()


def _time(event: LifecycleFact) -> int:
    return event.time_us


class _Reading(Generic[FactT]):
    """One reading of the events: all numbers in one chain, or a chain per source."""

    def __init__(self, created: FactT | None, others: Sequence[FactT], *, one_chain: bool) -> None:
        self._created = created
        items = _assign_times(others, one_chain=one_chain)
        self._end_us = min((item.base_us for item in items if item.verb == "deleted"), default=None)
        self.active, self.late = self._cut(items)
        numbers = [event.sequence for event in self._counted() if event.sequence is not None]
        self.repeats_number = len(set(numbers)) < len(numbers)
        self._sequence_max = max((event.sequence for event in others if event.sequence is not None), default=-1)
        if created is not None and created.sequence is not None:
            self._sequence_max = max(self._sequence_max, created.sequence)

    def _counted(self) -> Iterable[FactT]:
        if self._created is not None:
            yield self._created
        for item in self.active:
            yield item.event

    def _cut(self, items: Sequence[_Item[FactT]]) -> tuple[list[_Item[FactT]], list[_Item[FactT]]]:
        """The events that count, and those from the earliest effective deletion on."""
        if self._end_us is None:
            return list(items), []
        active: list[_Item[FactT]] = []
        late: list[_Item[FactT]] = []
        ended_chains: set[str] = set()
        for item in items:  # those of a chain in their order
            if item.base_us > self._end_us or item.chain in ended_chains:
                late.append(item)
                continue
            active.append(item)
            if item.verb == "deleted" and item.chain is not None:
                ended_chains.add(item.chain)
        return active, late

    def order(self, dropped: Sequence[_Item[FactT]], *, sequences_conflict: bool) -> Order[FactT]:
        """Place what counts, then what does not; `dropped` was found not to count before."""
        starts = _first_starts(self.active)
        active, moved = _move_named_stops(self.active, starts)
        walk = _Walk(self._created, starts)
        active.sort(key=_base)
        position = 0
        while position < len(active):
            upto = position + 1
            while upto < len(active) and active[upto].base_us == active[position].base_us:
                upto += 1
            if upto == position + 1:
                walk.take(*active[position][:3])
            else:
                _Instant(active[position:upto], walk).run()
            position = upto
        late = sorted([*self.late, *dropped], key=_late_key)
        for item in late:
            walk.take(item.event.time_us, item.event, item.verb)
        named = {item.event.run_id for item in (*active, *late) if item.verb == "stopped"}
        return Order(
            tuple(walk.placed),
            walk.running,
            walk.ended_us,
            sequences_conflict,
            self._sequence_max,
            frozenset(name for name in named if name is not None and name not in starts),
            moved,
            not dropped,
        )


def _base(item: _Item[FactT]) -> int:
    return item.base_us


def _late_key(item: _Item[FactT]) -> tuple[int, int, str, str]:
    return item.event.time_us, item.event.sequence or 0, item.event.source, item.event.event_id


def _assign_times(events: Sequence[FactT], *, one_chain: bool) -> list[_Item[FactT]]:
    """Effective times before run names are looked at; the events of a chain in its order."""
    items: list[_Item[FactT]] = []
    chains: dict[str, list[FactT]] = {}
    for event in events:
        if event.sequence is None:
            items.append(_Item(event.time_us, event, _VERBS[event.type], None, 0))
        else:
            chains.setdefault("" if one_chain else event.source, []).append(event)
    for name, chain in chains.items():
        if len(chain) > 1:
            chain.sort(key=_in_one_chain if one_chain else _in_own_chain)
        base_us = chain[0].time_us
        for place, event in enumerate(chain):
            base_us = max(base_us, event.time_us)
            items.append(_Item(base_us, event, _VERBS[event.type], name, place))
    return items


def _in_one_chain(event: LifecycleFact) -> tuple[int, bool, int, str, str]:
    # Of one number the deletion comes first: what follows it does not count, and does not make the number occur twice.
    return event.sequence or 0, _VERBS[event.type] != "deleted", event.time_us, event.source, event.event_id


def _in_own_chain(event: LifecycleFact) -> tuple[int, int, str, str, str]:
    # A source that repeats a number still gets one order.
    return event.sequence or 0, event.time_us, event.type, event.source, event.event_id


def _first_starts(items: Iterable[_Item[FactT]]) -> dict[str, int]:
    """When each named run starts at the earliest."""
    starts: dict[str, int] = {}
    for item in items:
        name = item.event.run_id
        if item.verb == "started" and name is not None:
            starts[name] = min(starts.get(name, item.base_us), item.base_us)
    return starts


def _move_named_stops(items: list[_Item[FactT]], starts: dict[str, int]) -> tuple[list[_Item[FactT]], bool]:
    """Move stops that come before their own run's start, or at its instant, out of their chain to that start."""
    if not starts:
        return list(items), False
    moved: list[_Item[FactT]] = []
    has_moved = False
    for item in items:
        start_us = starts.get(item.event.run_id or "") if item.verb == "stopped" else None
        if start_us is not None and item.base_us <= start_us:
            has_moved |= item.base_us < start_us
            moved.append(_Item(start_us, item.event, item.verb, None, 0))
        else:
            moved.append(item)
    return moved, has_moved


class _Walk(Generic[FactT]):
    """The state reached: what runs, which runs have begun, what is placed."""

    def __init__(self, created: FactT | None, starts: dict[str, int]) -> None:
        self._floor_us = None if created is None else created.time_us
        self.starts = starts
        self.placed: list[Placed[FactT]] = [] if created is None else [Placed(created.time_us, created)]
        self.running: FactT | None = None
        self.begun: set[str] = set()
        self.ended_us: int | None = None

    def take(self, at_us: int, event: FactT, verb: str) -> None:
        if self._floor_us is not None and at_us < self._floor_us:
            at_us = self._floor_us
        if self.ended_us is not None:
            self.placed.append(Placed(max(at_us, self.placed[-1].at_us), event, "after_the_end"))
        elif verb == "started":
            self._start(at_us, event)
        elif verb == "stopped":
            ended = self.running if self.ends_run(event) else None
            if ended is not None:
                self.running = None
            self.placed.append(Placed(at_us, event, "ends_no_run" if ended is None else "", ended))
        elif verb == "deleted":
            self.placed.append(Placed(at_us, event, "", self.running))
            self.running, self.ended_us = None, at_us
        else:
            self.placed.append(Placed(at_us, event))

    def _start(self, at_us: int, event: FactT) -> None:
        if not self.begins_run(event):
            self.placed.append(Placed(at_us, event, "run_has_begun"))
            return
        if event.run_id is not None:
            self.begun.add(event.run_id)
        self.placed.append(Placed(at_us, event, "", self.running))
        self.running = event

    def begins_run(self, event: FactT) -> bool:
        return event.run_id is None or event.run_id not in self.begun

    def ends_run(self, event: FactT) -> bool:
        """Whether a stop ends what runs now."""
        if self.running is None:
            return False
        if event.run_id is None or event.run_id == self.running.run_id:
            return True
        return self.running.run_id is None and event.run_id not in self.starts


_Key = tuple[str, str]


class _Instant(Generic[FactT]):
    """Several events at one instant: chains keep their order, otherwise the state decides."""

    def __init__(self, items: Sequence[_Item[FactT]], walk: _Walk[FactT]) -> None:
        self._walk = walk
        self._items = items
        self._behind: dict[str, list[int]] = {}  # of each chain what is not available yet, last first
        self._awaiting: dict[str, list[int]] = {}  # stops whose run starts within this instant
        self._done: set[int] = set()
        self._left = len(items)
        self._resized: list[tuple[_Key, int]] = []
        self._starts: list[tuple[_Key, int]] = []
        self._stops: list[tuple[_Key, int]] = []
        self._stops_by_run: dict[str, list[tuple[_Key, int]]] = {}
        self._named_stops: list[tuple[_Key, int]] = []  # those of `_stops_by_run` together
        self._strays: list[tuple[_Key, int]] = []  # stops that name a run which no start names
        self._idle: list[tuple[_Key, int]] = []  # starts of runs that have begun
        self._deleted: list[tuple[_Key, int]] = []

    def run(self) -> None:
        chains: dict[str, list[int]] = {}
        starting = {item.event.run_id for item in self._items if item.verb == "started"} - self._walk.begun
        for number, item in enumerate(self._items):
            name = item.event.run_id
            if item.chain is not None:
                chains.setdefault(item.chain, []).append(number)
            elif item.verb == "stopped" and name is not None and name in starting:
                self._awaiting.setdefault(name, []).append(number)
            else:
                self._offer(number)
        for chain, numbers in chains.items():
            numbers.sort(key=lambda number: self._items[number].place, reverse=True)
            self._behind[chain] = numbers
            self._offer(numbers.pop())
        while self._left:
            self._take(self._choose())

    def _offer(self, number: int) -> None:
        """Make an event available."""
        item = self._items[number]
        entry = (item.event.source, item.event.event_id), number
        name = item.event.run_id
        if item.verb == "started":
            heappush(self._starts, entry)
        elif item.verb == "deleted":
            heappush(self._deleted, entry)
        elif item.verb != "stopped":
            heappush(self._resized, entry)
        elif name is None:
            heappush(self._stops, entry)
        elif name not in self._walk.starts:
            heappush(self._strays, entry)
        else:
            heappush(self._stops_by_run.setdefault(name, []), entry)
            heappush(self._named_stops, entry)

    def _choose(self) -> int:
        if self._resized:
            return heappop(self._resized)[1]
        while self._starts and not self._walk.begins_run(self._items[self._starts[0][1]].event):
            heappush(self._idle, heappop(self._starts))
        effective = [self._starts] if self._walk.running is None else self._ending()
        without = [self._idle, self._named_stops, self._strays, self._stops, self._starts]
        for heaps in (effective, without, [self._deleted]):
            best = min((heap for heap in map(self._clean, heaps) if heap), default=None, key=lambda heap: heap[0])
            if best is not None:
                return heappop(best)[1]
        raise AssertionError("what is left at an instant is available in some order")

    def _ending(self) -> list[list[tuple[_Key, int]]]:
        """The heaps whose stops end what runs now."""
        assert self._walk.running is not None
        heaps = [self._stops]
        name = self._walk.running.run_id
        if name is not None:
            return [*heaps, self._stops_by_run.get(name, [])]
        return [*heaps, self._strays]

    def _clean(self, heap: list[tuple[_Key, int]]) -> list[tuple[_Key, int]]:
        while heap and heap[0][1] in self._done:
            heappop(heap)
        return heap

    def _take(self, number: int) -> None:
        item = self._items[number]
        self._done.add(number)
        self._left -= 1
        self._walk.take(*item[:3])
        name = item.event.run_id
        if item.verb == "started" and name is not None:
            for waiting in self._awaiting.pop(name, ()):
                self._offer(waiting)
        if item.chain is not None and self._behind[item.chain]:
            self._offer(self._behind[item.chain].pop())
