"""Calls that go together: which do, which never, and what becomes of them when one fails or waits."""

import asyncio
from collections.abc import Sequence

import pytest

from services.payment.app.gathering import Gathering


class Runs:
    """Doubles numbers; negative ones fail, and every run waits for `gate`."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.began: list[list[int]] = []
        self.under_way = 0
        self.most_under_way = 0

    async def run(self, numbers: Sequence[int]) -> list[int]:
        self.began.append(list(numbers))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.gate.wait()
        finally:
            self.under_way -= 1
        if any(number < 0 for number in numbers):
            raise ValueError(f"among {numbers}")
        return [2 * number for number in numbers]

    def gather(
        self, *, items_max: int = 100, runs_max: int = 1, modulus: int = 1000, patience_seconds: float = 30
    ) -> Gathering[int, int]:
        """Numbers that are equal by the modulus touch the same."""
        return Gathering(
            self.run,
            lambda number: frozenset({number % modulus}),
            items_max=items_max,
            runs_max=runs_max,
            patience_seconds=patience_seconds,
        )


async def submit_all(gathering: Gathering[int, int], numbers: Sequence[int]) -> list[asyncio.Task[int]]:
    """Submit numbers in order, none of which is answered yet."""
    tasks = [asyncio.create_task(gathering.submit(number)) for number in numbers]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_what_comes_while_a_run_is_under_way_goes_together() -> None:
    runs = Runs()
    tasks = await submit_all(runs.gather(items_max=3), [1, 2, 3, 4, 5])
    runs.gate.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10]
    assert runs.began == [[1], [2, 3, 4], [5]]


async def test_what_touches_the_same_never_goes_together() -> None:
    runs = Runs()
    tasks = await submit_all(runs.gather(modulus=10), [1, 2, 12, 3, 22])
    runs.gate.set()
    assert await asyncio.gather(*tasks) == [2, 4, 24, 6, 44]
    assert runs.began == [[1], [2, 3], [12], [22]]


async def test_a_bad_item_fails_alone() -> None:
    runs = Runs()
    tasks = await submit_all(runs.gather(), [1, 2, -3, 4])
    runs.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, int)] == [2, 4, 8]
    assert isinstance(answers[2], ValueError)
    assert runs.began == [[1], [2, -3, 4], [2], [-3], [4]]


async def test_a_run_that_waits_does_not_hold_up_the_others() -> None:
    runs = Runs()
    gathering = runs.gather(runs_max=2)
    [waiting] = await submit_all(gathering, [1])
    first_gate, runs.gate = runs.gate, asyncio.Event()
    more = await submit_all(gathering, [2, 3, 4])
    runs.gate.set()
    assert await asyncio.gather(*more) == [4, 6, 8]
    assert runs.most_under_way == 2
    assert not waiting.done()
    first_gate.set()
    assert await waiting == 2


async def test_what_waited_too_long_is_given_up_and_not_run_later() -> None:
    runs = Runs()
    gathering = runs.gather(patience_seconds=0.05)
    answers = await asyncio.gather(*(gathering.submit(number) for number in (1, 2, 3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [TimeoutError] * 3
    runs.gate.set()
    assert await gathering.submit(4) == 8
    assert runs.began == [[1], [4]]


async def test_who_asked_may_go_and_the_others_are_answered() -> None:
    runs = Runs()
    first, gone, stays = await submit_all(runs.gather(), [1, 2, 3])
    gone.cancel()
    runs.gate.set()
    assert [await first, await stays] == [2, 6]
    with pytest.raises(asyncio.CancelledError):
        await gone
