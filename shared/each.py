"""Loops that take items one after another: one that can't be done is set aside, and its neighbours go on."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar

from shared.clock import Clock
from shared.db import Pool, is_transient, past_races, transaction
from shared.log import get_logger
from shared.set_aside import Pause, describe_error, load_set_aside, release, set_aside

logger = get_logger(__name__)

_Item = TypeVar("_Item")
_Done = TypeVar("_Done")


async def do_each(
    pool: Pool,
    clock: Clock,
    kind: str,
    items: Mapping[str, _Item],
    do: Callable[[_Item], Awaitable[_Done]],
    *,
    pause: Pause = Pause(),  # noqa: B008 - frozen
) -> list[_Done]:
    """Do `items` by id, each on its own; answer what the done ones gave.

    A transient fault that every item has is raised; one that others do not have is the item's own.
    """
    if not items:
        return []
    now_us = clock.now_us()
    async with transaction(pool) as connection:
        known = await load_set_aside(connection, kind, list(items))
    done: list[_Done] = []
    faults: dict[str, Exception] = {}
    tried = 0
    for name, item in items.items():
        if name in known and known[name].is_held(now_us):
            continue
        tried += 1
        try:
            done.append(await past_races(partial(do, item)))
        except Exception as error:  # noqa: BLE001 - whatever one item breaks must not stop its neighbours
            faults[name] = error
        else:
            if name in known:
                async with transaction(pool) as connection:
                    await release(connection, kind, [name])
    passing = [error for error in faults.values() if is_transient(error)]
    if passing and len(passing) == tried:
        raise passing[0]
    for name, fault in faults.items():
        async with transaction(pool) as connection:
            await set_aside(connection, kind, name, describe_error(fault), now_us, pause)
    return done
