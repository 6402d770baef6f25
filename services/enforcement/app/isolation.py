"""One bad item never stands before its neighbours: what fails together is done in halves, down to the bad one."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

from shared.clock import Clock
from shared.db import Pool, is_transient, past_races, transaction
from shared.set_aside import Pause, describe_error, release, set_aside

ItemT = TypeVar("ItemT")


class Isolation:
    """Does items of one kind, in transactions of their caller, and sets aside the single ones that can't be done."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def apply(
        self,
        kind: str,
        items: Sequence[ItemT],
        name: Callable[[ItemT], str],
        act: Callable[[Sequence[ItemT]], Awaitable[int]],
        *,
        held: Collection[str] = (),
    ) -> int:
        """Let `act` do the items in one transaction, or in several smaller ones; return the sum of its results.

        What is known of those that `act` names in `held` stays: they were not done. Raises what is transient: that is
        no item's fault, and the loop tries again.
        """
        if not items:
            return 0
        try:
            done = await past_races(partial(act, items))
        except Exception as error:
            if is_transient(error):
                raise
            if len(items) == 1:
                await self.set_aside(kind, name(items[0]), error)
                return 0
        else:
            await self.release(kind, [name(item) for item in items if name(item) not in held])
            return done
        half = len(items) // 2
        first = await self.apply(kind, items[:half], name, act, held=held)
        return first + await self.apply(kind, items[half:], name, act, held=held)

    async def set_aside(self, kind: str, item: str, error: BaseException, pause: Pause = Pause()) -> None:  # noqa: B008 - frozen
        async with transaction(self._pool) as connection:
            await set_aside(connection, kind, item, describe_error(error), self._clock.now_us(), pause)

    async def release(self, kind: str, items: Sequence[str]) -> None:
        async with transaction(self._pool) as connection:
            await release(connection, kind, items)
