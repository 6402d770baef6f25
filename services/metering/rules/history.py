"""The history of one resource: everything that decides what it costs, and the order its events have.

Histories are compared, stored and replayed as values; any order of arrival of the same events costs the same.
"""

from dataclasses import dataclass, replace

import orjson

from shared.errors import Corruption

# Rank of events of the same instant; `volume.*` rank alike.
RANK: dict[str, int] = {
    "container.created": 0,
    "volume.created": 0,
    "container.started": 1,
    "container.resized": 2,
    "volume.resized": 2,
    "container.stopped": 3,
    "container.deleted": 4,
    "volume.deleted": 4,
}
CREATED = frozenset({"container.created", "volume.created"})
DELETED = frozenset({"container.deleted", "volume.deleted"})
# Only these set the configuration, whatever else a producer may write into the others.
CONFIGURES = CREATED | {"container.resized", "volume.resized"}

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Event:
    """One accepted lifecycle fact of one resource.

    `type` is a key of RANK. Of the configuration an event carries what it states: a resize only what changes, a volume
    its size as `storage_gb`.
    """

    source: str
    event_id: str
    type: str
    time_us: int
    sequence: int | None = None
    gpu_sku: str | None = None
    gpu_count: int | None = None
    storage_gb: int | None = None


@dataclass(frozen=True, slots=True)
class History:
    """Everything that decides what a resource costs.

    `events` are the accepted ones in any order, exactly one of them a `*.created`. `slot_seconds` and
    `function_version` are fixed at creation. From `commanded_us` (deletion commanded by enforcement, and not given
    up) on nothing is charged. Slots that start at or after `confirmed_until_us` (the last confirming inventory plus
    its bound) are not charged.
    """

    events: tuple[Event, ...]
    slot_seconds: int
    function_version: int = 1
    commanded_us: int | None = None
    confirmed_until_us: int | None = None

    @property
    def created(self) -> Event:
        """The one `*.created`, whose time anchors the grid. Raises Corruption if there is not exactly one."""
        created = [event for event in self.events if event.type in CREATED]
        if len(created) != 1:
            raise Corruption(f"a history has exactly one creation, this one {len(created)}")
        return created[0]

    def with_event(self, event: Event) -> "History":
        return replace(self, events=(*self.events, event))


def order_events(events: tuple[Event, ...]) -> tuple[tuple[int, Event], ...]:
    """Order the events of a resource; returns (effective instant, event), creation first, instants never falling.

    The producer's sequence orders them if every event has one and all come from one source; an event then takes effect
    no earlier than the one before it. Otherwise they are ordered by (time, rank, source, id). What lies before the
    creation is clamped to its instant and keeps its order. The creation stands at its own time whatever its
    sequence says: the billing grid hangs on it, and must not move when a late event comes in.
    Raises Corruption unless there is exactly one creation and every type is known.
    """
    unknown = [event.type for event in events if event.type not in RANK]
    if unknown:
        raise Corruption(f"a history holds an event of unknown type {unknown[0]!r}")
    first = events[0] if events else None
    if first is not None and all(event.sequence is not None and event.source == first.source for event in events):
        ordered = sorted(events, key=_by_sequence)
    else:
        ordered = sorted(events, key=_by_time)
    created = [event for event in ordered if event.type in CREATED]
    if len(created) != 1:
        raise Corruption(f"a history has exactly one creation, this one {len(created)}")
    effective_us = created[0].time_us
    placed = [(effective_us, created[0])]
    for event in ordered:
        if event is not created[0]:
            # By time this only clamps to the creation; by sequence it is also the rule that order beats time.
            effective_us = max(effective_us, event.time_us)
            placed.append((effective_us, event))
    return tuple(placed)


def comes_after(known: History, event: Event, at_us: int) -> bool:
    """Whether an event can have no effect on anything before an instant: what is charged up to it stays as it is.

    By time an event changes nothing before its own. By sequence it must also be the last of all, for order beats time;
    and one that ends the order by sequence puts every other in another place.
    """
    if event.time_us < at_us:
        return False
    first = known.events[0]
    if any(other.sequence is None or other.source != first.source for other in known.events):
        return True
    if event.sequence is None or event.source != first.source:
        return False
    return all((other.sequence or 0) < event.sequence for other in known.events)


def _by_time(event: Event) -> tuple[int, int, str, str]:
    return event.time_us, RANK[event.type], event.source, event.event_id


def _by_sequence(event: Event) -> tuple[int, int, int, str, str]:
    # A producer that repeats a number still gets one order, whatever the order of arrival.
    return event.sequence or 0, *_by_time(event)


def encode_history(history: History) -> bytes:
    """Write a history as compact JSON; `decode_history` reads back an equal one."""
    return orjson.dumps(
        [
            _FORMAT,
            history.slot_seconds,
            history.function_version,
            history.commanded_us,
            history.confirmed_until_us,
            [_event_row(event) for event in history.events],
        ]
    )


def decode_history(data: bytes) -> History:
    """Read what `encode_history` wrote. Raises Corruption for anything else."""
    try:
        form, slot_seconds, function_version, commanded_us, confirmed_until_us, rows = orjson.loads(data)
        if form != _FORMAT:
            raise Corruption(f"a stored history has format {form!r}; this version reads {_FORMAT}")
        events = tuple(Event(*row) for row in rows)
    except (ValueError, TypeError) as error:
        raise Corruption(f"a stored history can't be read: {error}") from error
    return History(events, slot_seconds, function_version, commanded_us, confirmed_until_us)


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
    ]
    # Most events state nothing but their time; millions of histories are stored.
    while row[-1] is None:
        row.pop()
    return row
