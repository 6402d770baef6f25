"""Which run of a container is running, by everything known of it.

A Life is a summary that grows by joining: order, repetition and delay of its facts do not matter, and it keeps no
list of them. The order is the producer's sequence if every fact has one and all come from one source, else
(time, rank of type, source, id).
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

STARTED, STOPPED, DELETED = "started", "stopped", "deleted"
_RANK = {STARTED: 1, STOPPED: 3}


class RunKey(NamedTuple):
    """A run is named by the (source, id) of its `container.started`."""

    source: str
    event_id: str


class Mark(NamedTuple):
    """A start or a stop at its place in the order by time; `sequence` is -1 where the producer gave none."""

    time_us: int
    rank: int
    source: str
    event_id: str
    sequence: int

    @property
    def run(self) -> RunKey | None:
        return RunKey(self.source, self.event_id) if self.rank == _RANK[STARTED] else None


@dataclass(frozen=True, slots=True)
class Fact:
    """One lifecycle event of a resource; `verb` is the type without its family: created, started, …"""

    verb: str
    time_us: int
    source: str
    event_id: str
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Life:
    """The summary: whether the sequence orders it, and the last start or stop by either order."""

    sequenced: bool = True
    source: str | None = None
    sources_differ: bool = False
    deleted: bool = False
    last_by_time: Mark | None = None
    last_by_sequence: Mark | None = None

    @property
    def running(self) -> RunKey | None:
        """The run that is running. After any `deleted` nothing runs, whatever comes late."""
        if self.deleted:
            return None
        by_sequence = self.sequenced and not self.sources_differ
        last = self.last_by_sequence if by_sequence else self.last_by_time
        return None if last is None else last.run


def learn_fact(life: Life, fact: Fact) -> Life:
    """Join a fact to a life."""
    grown = replace(
        life,
        sequenced=life.sequenced and fact.sequence is not None,
        source=fact.source if life.source is None else min(life.source, fact.source),
        sources_differ=life.sources_differ or life.source not in {None, fact.source},
        deleted=life.deleted or fact.verb == DELETED,
    )
    rank = _RANK.get(fact.verb)
    if rank is None:
        return grown
    sequence = -1 if fact.sequence is None else fact.sequence
    mark = Mark(fact.time_us, rank, fact.source, fact.event_id, sequence)
    by_time, by_sequence = life.last_by_time, life.last_by_sequence
    return replace(
        grown,
        last_by_time=mark if by_time is None else max(by_time, mark),
        last_by_sequence=mark if by_sequence is None else max(by_sequence, mark, key=_by_sequence),
    )


def _by_sequence(mark: Mark) -> tuple[int, Mark]:
    return mark.sequence, mark
