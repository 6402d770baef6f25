"""The history of one resource: everything that decides what it costs.

Histories are compared, stored and replayed as values; any order of arrival of the same events costs the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import orjson

from services.metering.rules.lines import Anchor
from shared.errors import Corruption
from shared.lifecycle_order import Order, order_lifecycle

CREATED = frozenset({"container.created", "volume.created"})
DELETED = frozenset({"container.deleted", "volume.deleted"})
# Only these set the configuration, whatever else a producer may write into the others.
CONFIGURES = CREATED | {"container.resized", "volume.resized"}

EventKey = tuple[str, str]

_FORMAT = 2


@dataclass(frozen=True, slots=True)
class Event:
    """One accepted lifecycle fact of one resource.

    Of the configuration an event carries what it states: a resize only what changes, a volume its size as
    `storage_gb`. `run_id` names the run that a start begins or a stop ends.
    """

    source: str
    event_id: str
    type: str
    time_us: int
    sequence: int | None = None
    gpu_sku: str | None = None
    gpu_count: int | None = None
    storage_gb: int | None = None
    run_id: str | None = None

    @property
    def key(self) -> EventKey:
        return self.source, self.event_id


@dataclass(frozen=True, slots=True)
class Replaced:
    """An event that was taken out of the history, by which event, and why if that one said so."""

    event: Event
    by: EventKey
    reason: str | None = None


@dataclass(frozen=True)
class History:
    """Everything that decides what a resource costs.

    `events` are the accepted ones in any order, exactly one of them a `*.created`. `slot_seconds` and
    `function_version` are fixed at creation. From `commanded_us` (deletion commanded by enforcement, and not given
    up) on nothing is charged. Slots that start at or after `confirmed_until_us` (the last confirming inventory plus
    its bound) are not charged. `replaced` is what amendments took out; it costs nothing.
    """

    events: tuple[Event, ...]
    slot_seconds: int
    function_version: int = 1
    commanded_us: int | None = None
    confirmed_until_us: int | None = None
    replaced: tuple[Replaced, ...] = ()

    @property
    def created(self) -> Event:
        """The one `*.created`, whose time anchors the grid. Raises Corruption if there is not exactly one."""
        created = [event for event in self.events if event.type in CREATED]
        if len(created) != 1:
            raise Corruption(f"a history has exactly one creation, this one {len(created)}")
        return created[0]

    @property
    def anchor(self) -> Anchor:
        """The grid of its slots. Raises Corruption as `created` does."""
        return Anchor(self.created.time_us, self.slot_seconds)

    def confirmed(self, until_us: int) -> "History":
        """The same history, confirmed up to another instant. Not by `replace`: a million are confirmed at a time."""
        return History(
            self.events, self.slot_seconds, self.function_version, self.commanded_us, until_us, self.replaced
        )

    @cached_property
    def order(self) -> Order[Event]:
        """The events in their order. Raises Corruption unless there is one creation and every type is known."""
        try:
            order = order_lifecycle(self.events)
        except ValueError as error:
            raise Corruption(f"a history can't be ordered: {error}") from error
        if not order.placed or order.placed[0].event.type not in CREATED:
            raise Corruption("a history has exactly one creation, this one 0")
        return order


def comes_after(known: History, events: Sequence[Event], at_us: int) -> bool:
    """Whether further events can have no effect on anything before an instant: what is charged up to it stays."""
    numbers = [event.sequence for event in events if event.sequence is not None]
    if len(set(numbers)) < len(numbers):
        return False
    if any(event.time_us < at_us for event in events):
        return False
    return all(known.order.leaves_past_alone(event, at_us) for event in events)


class Draft:
    """A history that is being written: events join it one after another, and it is ordered and charged once."""

    def __init__(self, before: History | None) -> None:
        self.before = before
        self.events: dict[EventKey, Event] = {} if before is None else {item.key: item for item in before.events}
        self.replaced: dict[EventKey, Replaced] = (
            {} if before is None else {item.event.key: item for item in before.replaced}
        )
        self.added: list[Event] = []
        # Whether an event that was there before was taken out.
        self.is_amended = False
        self.created = None if before is None else before.created

    def add(self, event: Event) -> None:
        self.events[event.key] = event
        self.added.append(event)
        if event.type in CREATED:
            self.created = event

    def replace(self, target: EventKey, by: EventKey, event: Event | None, reason: str | None) -> None:
        """Take an event out, and put another in its place if one is given."""
        self.replaced[target] = Replaced(self.events.pop(target), by, reason)
        self.is_amended = True
        if event is not None:
            self.add(event)

    def find(self, key: EventKey) -> Event | None:
        """An event that is or was part of the history."""
        found = self.events.get(key)
        if found is None and key in self.replaced:
            found = self.replaced[key].event
        return found

    def history(self, begun: History) -> History:
        """The history as it is now; `begun` has everything but events."""
        return History(
            tuple(self.events.values()),
            begun.slot_seconds,
            begun.function_version,
            begun.commanded_us,
            begun.confirmed_until_us,
            tuple(self.replaced.values()),
        )


def encode_history(history: History) -> bytes:
    """Write a history as compact JSON; `decode_history` reads back an equal one."""
    head: list[object] = [
        _FORMAT,
        history.slot_seconds,
        history.function_version,
        history.commanded_us,
        history.confirmed_until_us,
        [_event_row(event) for event in history.events],
    ]
    if history.replaced:
        head.append([[_event_row(item.event), *item.by, item.reason] for item in history.replaced])
    return orjson.dumps(head)


def decode_history(data: bytes) -> History:
    """Read what `encode_history` wrote. Raises Corruption for anything else."""
    try:
        form, slot_seconds, function_version, commanded_us, confirmed_until_us, rows, *more = orjson.loads(data)
        replaced: tuple[Replaced, ...] = ()
        if form != _FORMAT:
            raise Corruption(f"a stored history has format {form!r}; this version reads {_FORMAT}")
        # A list is quicker than a generator, and millions of histories are read.
        events = tuple([Event(*row) for row in rows])
        if more:
            [parts] = more
            replaced = tuple(Replaced(Event(*row), (source, name), reason) for row, source, name, reason in parts)
    except (ValueError, TypeError) as error:
        raise Corruption(f"a stored history can't be read: {error}") from error
    return History(events, slot_seconds, function_version, commanded_us, confirmed_until_us, replaced)


def _event_row(event: Event) -> list[str | int | None]:
    row: list[str | int | None] = [
        event.source,
        event.event_id,
        event.type,
        event.time_us,
        event.sequence,
        event.gpu_sku,
        event.gpu_count,
        event.storage_gb,
        event.run_id,
    ]
    # Most events state nothing but their time; millions of histories are stored.
    while row[-1] is None:
        row.pop()
    return row


def describe_without_effect(history: History) -> Mapping[EventKey, str]:
    """Why events of the history have no effect, by their (source, id)."""
    return {item.event.key: item.effect for item in history.order.without_effect}
