"""Calls that come while others are under way are done together: one transaction costs little more than one call."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class _Call(Generic[Item, Answer]):
    item: Item
    touches: frozenset[Hashable]
    answer: asyncio.Future[Answer]


class Gathering(Generic[Item, Answer]):
    """Runs items together: `run` answers one answer for each, in their order, or raises and has done nothing.

    `touches` names what an item is about: two items about the same thing are never in one run. `runs_max` runs are
    under way at once, so that one which waits for a lock does not hold up all others. Items that fail together are
    run again each by itself, so that a bad one fails alone. What has waited for `patience_seconds` is given up.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        touches: Callable[[Item], frozenset[Hashable]],
        *,
        items_max: int,
        runs_max: int,
        patience_seconds: float,
    ) -> None:
        self._run = run
        self._touches = touches
        self._items_max = items_max
        self._runs_max = runs_max
        self._patience_seconds = patience_seconds
        self._waiting: list[_Call[Item, Answer]] = []
        self._running: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Answer:
        """Have an item run and answer what became of it; raises what `run` raised for it.

        Raises TimeoutError when that takes too long: it may have been run, or never will be.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(item, self._touches(item), answer))
        self._start()
        async with asyncio.timeout(self._patience_seconds):
            return await answer

    def _start(self) -> None:
        while len(self._running) < self._runs_max and (calls := self._take()):
            task = asyncio.create_task(self._settle(calls))
            self._running.add(task)
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._start()

    def _take(self) -> list[_Call[Item, Answer]]:
        """The first that still wait, without those that touch what an earlier one of them touches."""
        taken: list[_Call[Item, Answer]] = []
        left: list[_Call[Item, Answer]] = []
        touched: set[Hashable] = set()
        for call in self._waiting:
            if call.answer.done():
                continue
            if len(taken) < self._items_max and touched.isdisjoint(call.touches):
                taken.append(call)
                touched |= call.touches
            else:
                left.append(call)
        self._waiting = left
        return taken

    async def _settle(self, calls: Sequence[_Call[Item, Answer]]) -> None:
        try:
            answers = await self._run([call.item for call in calls])
        except Exception as error:  # noqa: BLE001 - it is raised again, to whom it concerns
            if len(calls) > 1:
                await asyncio.gather(*(self._settle([call]) for call in calls))
            elif not calls[0].answer.done():
                calls[0].answer.set_exception(error)
            return
        for call, answer in zip(calls, answers, strict=True):
            if not call.answer.done():  # who asked may have gone
                call.answer.set_result(answer)
