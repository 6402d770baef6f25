"""What takes long lets the event loop go: what is asked, ticked or relayed meanwhile does not wait for it.

Many short pieces are done in the loop, a few milliseconds at a time; a thread would cost them a fifth more. One long
piece is done in a thread.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from services.metering.store.resources import Resource, Unreadable

# An event of a history costs some 20 to 50 us to decide on, order and charge.
EVENTS_ON_LOOP_MAX = 1000
# Pieces after which those who do many let the loop go.
PIECES_AT_ONCE = 100

_ResultT = TypeVar("_ResultT")
Steps = Generator[None, None, _ResultT]


async def walk(steps: Steps[_ResultT], longest: int) -> _ResultT:
    """Do steps, the longest of which takes `longest` events. Nobody else may hold what they change until it returns."""
    found: list[_ResultT] = []
    pieces = _keep(steps, found)
    if longest > EVENTS_ON_LOOP_MAX:
        await asyncio.to_thread(deque, pieces, 0)
    for _ in pieces:
        await asyncio.sleep(0)
    return found[0]


def _keep(steps: Steps[_ResultT], found: list[_ResultT]) -> Generator[None, None, None]:
    found.append((yield from steps))


async def work_through(events: int, work: Callable[[], _ResultT]) -> _ResultT:
    """Do work that goes by this many events. Nobody else may hold what it changes until it returns."""
    return work() if events <= EVENTS_ON_LOOP_MAX else await asyncio.to_thread(work)


def count_events(resources: Iterable[Resource | Unreadable]) -> int:
    """How many events these resources' histories have."""
    return sum(len(resource.history.events) for resource in resources if isinstance(resource, Resource))
