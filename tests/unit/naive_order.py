"""A second opinion on the order of lifecycle events, written from the rule's words and sharing no code with it."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Step(NamedTuple):
    at_us: int
    event: Any
    effect: str


def order(events: Sequence[Any]) -> list[Step]:
    """The events with effective times, in order; `effect` says why one has none."""
    created = [event for event in events if event.type.endswith("created")]
    rest = [event for event in events if not event.type.endswith("created")]
    dropped: list[Any] = []
    while True:
        steps, late, twice = _read(created, rest, chains_of=lambda _: "all")
        if twice:
            steps, late, _ = _read(created, rest, chains_of=lambda event: event.source)
            if late:
                dropped += late
                rest = [event for event in rest if event not in late]
                continue
        break
    for event in sorted([*late, *dropped], key=lambda e: (e.time_us, e.sequence or 0, e.source, e.event_id)):
        steps.append(Step(max(event.time_us, steps[-1].at_us), event, "after_the_end"))
    return steps


def _read(created: list[Any], rest: list[Any], chains_of: Any) -> tuple[list[Step], list[Any], bool]:
    """(steps up to the end, what does not count, whether a number occurs twice among what does)."""
    one_chain = chains_of(None) == "all" if not rest else chains_of(rest[0]) == "all"
    effective: dict[int, int] = {}
    chain_before: dict[int, list[Any]] = {}
    for event in rest:
        if event.sequence is None:
            effective[id(event)], chain_before[id(event)] = event.time_us, []
            continue
        chain = [e for e in rest if e.sequence is not None and chains_of(e) == chains_of(event)]
        before = [e for e in chain if _chain_key(e, one_chain=one_chain) < _chain_key(event, one_chain=one_chain)]
        effective[id(event)] = max(e.time_us for e in [*before, event])
        chain_before[id(event)] = before
    ends = [effective[id(event)] for event in rest if event.type.endswith("deleted")]

    def counts(event: Any) -> bool:
        if not ends:
            return True
        behind = any(e.type.endswith("deleted") and effective[id(e)] <= min(ends) for e in chain_before[id(event)])
        return effective[id(event)] <= min(ends) and not behind

    active = [event for event in rest if counts(event)]
    late = [event for event in rest if not counts(event)]
    numbers = [event.sequence for event in [*created, *active] if event.sequence is not None]
    return _merge(created, active, effective, chain_before), late, len(numbers) != len(set(numbers))


def _chain_key(event: Any, *, one_chain: bool) -> tuple[Any, ...]:
    if one_chain:
        return event.sequence, not event.type.endswith("deleted"), event.time_us, event.source, event.event_id
    return event.sequence, event.time_us, event.type, event.source, event.event_id


def _merge(
    created: list[Any], active: list[Any], effective: dict[int, int], chain_before: dict[int, list[Any]]
) -> list[Step]:
    steps = [Step(event.time_us, event, "") for event in created]
    floor_us = created[0].time_us if created else None
    starts_of: dict[str, int] = {}
    for event in active:
        if event.type.endswith("started") and event.run_id is not None:
            starts_of[event.run_id] = min(starts_of.get(event.run_id, 2**63), effective[id(event)])
    when, free = dict(effective), set()
    for event in active:
        if event.type.endswith("stopped") and event.run_id in starts_of and when[id(event)] <= starts_of[event.run_id]:
            when[id(event)] = starts_of[event.run_id]
            free.add(id(event))
    running: Any = None
    begun: set[str] = set()
    ended = False
    left = list(active)

    def is_available(event: Any) -> bool:
        if id(event) in free:
            return event.run_id in begun
        return not any(e in left and id(e) not in free for e in chain_before[id(event)])

    def ends_run(event: Any) -> bool:
        if running is None:
            return False
        if event.run_id is None:
            return True
        return bool(event.run_id == running.run_id or (running.run_id is None and event.run_id not in starts_of))

    def rank(event: Any) -> tuple[int, str, str]:
        verb = event.type.split(".")[1]
        place = {"resized": 0, "started": 2, "stopped": 2, "deleted": 3}[verb]
        if verb == "started" and running is None and (event.run_id is None or event.run_id not in begun):
            place = 1
        if verb == "stopped" and ends_run(event):
            place = 1
        return place, event.source, event.event_id

    while left:
        now = min(when[id(event)] for event in left)
        event = min((e for e in left if when[id(e)] == now and is_available(e)), key=rank)
        left.remove(event)
        effect = ""
        if ended:
            effect = "after_the_end"
        elif event.type.endswith("started"):
            if event.run_id is not None and event.run_id in begun:
                effect = "run_has_begun"
            else:
                running = event
                begun.add(event.run_id)
        elif event.type.endswith("stopped"):
            effect = "" if ends_run(event) else "ends_no_run"
            running = running if effect else None
        elif event.type.endswith("deleted"):
            ended, running = True, None
        steps.append(Step(now if floor_us is None else max(now, floor_us), event, effect))
    return steps
