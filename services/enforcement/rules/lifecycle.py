"""Which run of a container is running, by everything known of it.

A Life is the set of a resource's facts, less what was amended: order, repetition and delay of their arrival do not
matter. Their order is the one of `shared/lifecycle_order.py`, as in metering.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from shared.lifecycle_order import Order, order_lifecycle

CREATED, STARTED, STOPPED, DELETED, RETRACTED = "created", "started", "stopped", "deleted", "retracted"

# What a row of a resource may hold. Beyond it the oldest facts are folded: what is left leads to the same run, and one
# more fact can only tell the difference if it comes later than so many others of its resource.
FACTS_MAX = 128
FACTS_KEPT = 64


class RunKey(NamedTuple):
    """A run is named by the (source, id) of its `container.started`."""

    source: str
    event_id: str


class FactKey(NamedTuple):
    source: str
    event_id: str


@dataclass(frozen=True, slots=True)
class Fact:
    """One lifecycle event of a resource; `verb` is the type without its family: created, started, …

    `replaces` names the fact that it takes out; a `retracted` takes one out and puts nothing in.
    """

    verb: str
    time_us: int
    source: str
    event_id: str
    sequence: int | None = None
    run_id: str | None = None
    replaces: FactKey | None = None

    @property
    def key(self) -> FactKey:
        return FactKey(self.source, self.event_id)

    @property
    def type(self) -> str:
        """As the order names it; volumes know a part of the same verbs."""
        return f"container.{self.verb}"


@dataclass(frozen=True)
class Life:
    """`facts` by their keys; `amended`: who took which fact out, also one that has not come yet.

    `is_disputed`: something was said that was refused because something else came first. Whoever heard it the other way
    round, as metering may have, knows another life.
    """

    facts: tuple[Fact, ...] = ()
    amended: tuple[tuple[FactKey, FactKey], ...] = ()
    is_disputed: bool = field(default=False, compare=False)

    @property
    def is_doubtful(self) -> bool:
        """Whether what is known may depend on the order in which it came."""
        return self.is_disputed or bool(self.amended)

    @cached_property
    def order(self) -> Order[Fact]:
        return order_lifecycle(self.facts)

    @property
    def created(self) -> bool:
        return any(fact.verb == CREATED for fact in self.facts)

    @property
    def deleted(self) -> bool:
        return any(fact.verb == DELETED for fact in self.facts)

    @property
    def running(self) -> RunKey | None:
        """The run that is running. After any `deleted` nothing runs, whatever comes late."""
        if self.deleted:
            return None
        started = self.order.running
        return None if started is None else RunKey(*started.key)


def learn_fact(life: Life, fact: Fact) -> Life:
    """Join a fact to a life. A second creation, and a second amendment of one fact, change nothing.

    As in metering, only another creation takes a creation's place: what retracts one, or puts something else there, is
    refused, whichever came first.
    """
    amended = dict(life.amended)
    if fact.verb == CREATED and fact.key in amended:
        life, amended = _refuse_amendment(life, fact.key)
    if fact.replaces is not None:
        target = next((known for known in life.facts if known.key == fact.replaces), None)
        if target is not None and (target.verb == CREATED) != (fact.verb == CREATED):
            return dispute(life)
        if amended.setdefault(fact.replaces, fact.key) != fact.key:
            return dispute(life)
        if len(amended) > FACTS_MAX:
            del amended[next(iter(amended))]
    facts = {known.key: known for known in life.facts if known.key not in amended}
    second = fact.verb == CREATED and any(known.verb == CREATED for known in facts.values())
    is_disputed = life.is_disputed or facts.get(fact.key, fact) != fact or (second and fact.key not in facts)
    if fact.verb != RETRACTED and fact.key not in amended and not second:
        facts.setdefault(fact.key, fact)
    grown = Life(tuple(sorted(facts.values(), key=_key)), tuple(amended.items()), is_disputed)
    if grown == life and grown.is_disputed == life.is_disputed:
        return life
    return grown if len(grown.facts) <= FACTS_MAX else _fold(grown)


def _refuse_amendment(life: Life, creation: FactKey) -> tuple[Life, dict[FactKey, FactKey]]:
    """The life without an amendment of a creation that is no creation itself, and what amends what in it."""
    amended = dict(life.amended)
    by = amended[creation]
    if any(known.key == by and known.verb == CREATED for known in life.facts):
        return life, amended
    del amended[creation]
    left = tuple(known for known in life.facts if known.key != by)
    return Life(left, tuple(amended.items()), is_disputed=True), amended


def dispute(life: Life) -> Life:
    return life if life.is_disputed else replace(life, is_disputed=True)


def _fold(life: Life) -> Life:
    """Keep the newest facts, and of the others what the state rests on: creation, deletion, last start, last stop.

    And two of one number, if there are: by them each source has an order of its own.
    """
    placed = [item.event for item in life.order.placed]
    old, new = placed[:-FACTS_KEPT], placed[-FACTS_KEPT:]
    last = {fact.verb: fact for fact in old if fact.verb in {CREATED, STARTED, STOPPED}}
    running = life.order.running
    kept = {fact.key: fact for fact in (*new, *last.values(), *_deletions(old), *_same_number(placed))}
    if running is not None:
        kept[running.key] = running
    return replace(life, facts=tuple(sorted(kept.values(), key=_key)))


def _same_number(facts: Iterable[Fact]) -> tuple[Fact, ...]:
    numbered: dict[int, Fact] = {}
    for fact in facts:
        if fact.sequence is not None and numbered.setdefault(fact.sequence, fact) is not fact:
            return numbered[fact.sequence], fact
    return ()


def _deletions(facts: Iterable[Fact]) -> list[Fact]:
    """The first deletion: further ones say nothing more."""
    return [fact for fact in facts if fact.verb == DELETED][:1]


def _key(fact: Fact) -> FactKey:
    return fact.key
