"""Loops that take items one after another: one that can't be done is set aside, and its neighbours go on."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from shared.clock import Clock
from shared.db import Pool, is_transient, transaction
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
    """Do `items` by id, each on its own; answer what the done ones gave. A transient fault ends the round."""
    if not items:
        return []
    now_us = clock.now_us()
    async with transaction(pool) as connection:
        known = await load_set_aside(connection, kind, list(items))
    done: list[_Done] = []
    for name, item in items.items():
        if name in known and known[name].next_at_us > now_us:
            continue
        try:
            done.append(await do(item))
        except Exception as error:
            if is_transient(error):
                raise
            async with transaction(pool) as connection:
                await set_aside(connection, kind, name, describe_error(error), now_us, pause)
        else:
            if name in known:
                async with transaction(pool) as connection:
                    await release(connection, kind, [name])
    return done
