"""What takes long runs beside the event loop: what is asked, ticked or relayed meanwhile does not wait for it."""

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

from services.metering.store.resources import Resource, Unreadable

# An event of a history costs some 20 to 50 us to decide on, order and charge.
EVENTS_ON_LOOP_MAX = 500

_ResultT = TypeVar("_ResultT")


async def work_through(events: int, work: Callable[[], _ResultT]) -> _ResultT:
    """Do work whose length goes by a number of events, in a thread where they are many.

    Nobody else may hold what it changes until it returns.
    """
    return work() if events <= EVENTS_ON_LOOP_MAX else await asyncio.to_thread(work)


def count_events(resources: Iterable[Resource | Unreadable]) -> int:
    """How many events these resources' histories have."""
    return sum(len(resource.history.events) for resource in resources if isinstance(resource, Resource))
