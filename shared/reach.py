"""Whether what a service stands on answers: asked when somebody wants to know, and no more often than it is of use."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

ANSWER_SECONDS = 2.0
# An answer is good for so long; without one it is asked again at the next question.
GOOD_SECONDS = 5.0


class Reach:
    """`questions` by the name of what is asked: each raises, or does not come back, where it is out of reach."""

    def __init__(self, questions: Mapping[str, Callable[[], Awaitable[object]]]) -> None:
        self._questions = questions
        self._answered_at: dict[str, float] = {}
        # A question that is not answered goes on: to break it off may take as long as the answer.
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def find_silent(self) -> dict[str, str]:
        """What does not answer, by name, and how it does not."""
        told = await asyncio.gather(*map(self._ask, self._questions))
        return {name: reason for name, reason in zip(self._questions, told, strict=True) if reason is not None}

    async def _ask(self, name: str) -> str | None:
        if time.monotonic() - self._answered_at.get(name, -GOOD_SECONDS) < GOOD_SECONDS:
            return None
        asking = self._asking.get(name) or asyncio.create_task(self._question(name))
        self._asking[name] = asking
        if not (await asyncio.wait({asking}, timeout=ANSWER_SECONDS))[0]:
            return f"does not answer within {ANSWER_SECONDS:g} s"
        self._asking.pop(name, None)
        error = None if asking.cancelled() else asking.exception()
        if error is not None:
            return f"does not answer: {type(error).__name__}"
        self._answered_at[name] = time.monotonic()
        return None

    async def _question(self, name: str) -> None:
        await self._questions[name]()
