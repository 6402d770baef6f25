"""The order of a resource's facts, read off the design's text step by step; slow, and sharing no code with services.

What the text leaves open follows docs/adr/0008: numbers that occur twice give each source a chain of its own, judged
without what comes after the end; a stop that names a run which nobody starts ends a run without a name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.oracle.reading import Fact


@dataclass(frozen=True)
class Step:
    """A fact at the instant of its effect; `idle` says why it has none."""

    at_us: int
    fact: Fact
    idle: str = ""


@dataclass(frozen=True)
class _Timed:
    """A fact with its effective time; `chain` and `place` say what it must not overtake."""

    at_us: int
    fact: Fact
    chain: str | None = None
    place: int = 0

    @property
    def name(self) -> tuple[str, str]:
        return self.fact.source, self.fact.event_id


def in_order(created: Fact, others: Sequence[Fact]) -> list[Step]:
    """The creation, then what counts in its order, then what came after the end."""
    dropped: list[Fact] = []
    remaining = list(others)
    while True:
        timed = _along_chains(remaining, by_source=False)
        counting, late = _until_the_end(timed)
        if _repeats_a_number([created, *(item.fact for item in counting)]):
            counting, late = _until_the_end(_along_chains(remaining, by_source=True))
            if late:
                dropped += [item.fact for item in late]
                remaining = [item.fact for item in counting]
                continue
        dropped += [item.fact for item in late]
        return _walk(created, _hold_named_stops(counting), dropped)


def _repeats_a_number(facts: Sequence[Fact]) -> bool:
    numbers = [fact.sequence for fact in facts if fact.sequence is not None]
    return len(numbers) != len(set(numbers))


def _along_chains(facts: Sequence[Fact], *, by_source: bool) -> list[_Timed]:
    """Effective times: the fact's own, and along a chain never before what is in front of it."""
    timed = [_Timed(fact.time_us, fact) for fact in facts if fact.sequence is None]
    numbered = [fact for fact in facts if fact.sequence is not None]
    for name in sorted({fact.source if by_source else "" for fact in numbered}):
        chain = [fact for fact in numbered if not by_source or fact.source == name]
        if by_source:
            chain.sort(key=lambda fact: (fact.sequence or 0, fact.time_us, f"{fact.family}.{fact.verb}", fact.event_id))
        else:
            chain.sort(
                key=lambda fact: (fact.sequence or 0, fact.verb != "deleted", fact.time_us, fact.source, fact.event_id)
            )
        for place in range(len(chain)):
            at_us = max(fact.time_us for fact in chain[: place + 1])
            timed.append(_Timed(at_us, chain[place], name, place))
    return timed


def _until_the_end(timed: Sequence[_Timed]) -> tuple[list[_Timed], list[_Timed]]:
    """What counts, and what the earliest effective deletion leaves behind."""
    ends = [item for item in timed if item.fact.verb == "deleted"]
    if not ends:
        return list(timed), []
    end_us = min(item.at_us for item in ends)

    def is_late(item: _Timed) -> bool:
        behind = any(
            end.chain is not None and end.chain == item.chain and end.place < item.place and end.at_us <= end_us
            for end in ends
        )
        return item.at_us > end_us or behind

    return [item for item in timed if not is_late(item)], [item for item in timed if is_late(item)]


def _hold_named_stops(timed: Sequence[_Timed]) -> list[_Timed]:
    """A stop that names its run takes effect no earlier than the run's start, whatever clocks and numbers say."""
    held = []
    for item in timed:
        starts = [
            other.at_us
            for other in timed
            if other.fact.verb == "started" and item.fact.run_id is not None and other.fact.run_id == item.fact.run_id
        ]
        is_early = item.fact.verb == "stopped" and starts and item.at_us <= min(starts)
        held.append(replace(item, at_us=min(starts), chain=None, place=0) if is_early else item)
    return held


class _State:
    """What runs, and which runs have begun."""

    def __init__(self, named: set[str]) -> None:
        self.running: Fact | None = None
        self.begun: set[str] = set()
        self.named = named

    def begins(self, start: Fact) -> bool:
        return start.run_id is None or start.run_id not in self.begun

    def ends(self, stop: Fact) -> bool:
        if self.running is None:
            return False
        if stop.run_id is None or stop.run_id == self.running.run_id:
            return True
        return self.running.run_id is None and stop.run_id not in self.named

    def take(self, fact: Fact) -> str:
        if fact.verb == "started":
            if not self.begins(fact):
                return "run has begun"
            self.begun |= {fact.run_id} if fact.run_id is not None else set()
            self.running = fact
        if fact.verb == "stopped":
            if not self.ends(fact):
                return "ends no run"
            self.running = None
        if fact.verb == "deleted":
            self.running = None
        return ""

    def rank(self, fact: Fact) -> int:
        """At one instant: sizes, then what has an effect now, then what has none, and the end."""
        if fact.verb == "resized":
            return 0
        if fact.verb == "deleted":
            return 3
        if fact.verb == "started":
            return 1 if self.running is None and self.begins(fact) else 2
        return 1 if self.ends(fact) else 2


def _walk(created: Fact, timed: Sequence[_Timed], late: Sequence[Fact]) -> list[Step]:
    state = _State({item.fact.run_id for item in timed if item.fact.verb == "started" and item.fact.run_id is not None})
    steps = [Step(created.time_us, created)]
    left = list(timed)
    ended = False
    while left:
        now_us = min(item.at_us for item in left)
        here = [item for item in left if item.at_us == now_us]
        chosen = min(
            (item for item in here if not _must_wait(item, here, state)),
            key=lambda item: (state.rank(item.fact), item.name),
        )
        left.remove(chosen)
        at_us = max(now_us, created.time_us)
        steps.append(Step(at_us, chosen.fact, "after deletion" if ended else state.take(chosen.fact)))
        ended = ended or chosen.fact.verb == "deleted"
    return [*steps, *(Step(steps[-1].at_us, fact, "after deletion") for fact in late)]


def _must_wait(item: _Timed, here: Sequence[_Timed], state: _State) -> bool:
    """Chains keep their order; a stop waits for the start that it names."""
    if item.chain is not None:
        return any(other.chain == item.chain and other.place < item.place for other in here)
    name = item.fact.run_id
    return (
        item.fact.verb == "stopped"
        and name is not None
        and name not in state.begun
        and any(other.fact.verb == "started" and other.fact.run_id == name for other in here)
    )
