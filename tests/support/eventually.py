"""Waiting for a state by asking for it, never by sleeping for it."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

_PAUSE_SECONDS = 0.02
_PAUSE_SECONDS_MAX = 0.25
_Answer = TypeVar("_Answer")


async def eventually(
    check: Callable[[], Awaitable[_Answer] | _Answer], *, timeout_seconds: float = 30, what: str = "the state"
) -> _Answer:
    """Ask `check` until it answers something true, and answer that.

    A check may also assert: a failed assertion means "not yet". After `timeout_seconds` the test fails with the last
    answer or failed assertion.
    """
    deadline = time.monotonic() + timeout_seconds
    pause_seconds = _PAUSE_SECONDS
    while True:
        try:
            answer = check()
            if inspect.isawaitable(answer):
                answer = await answer
        except AssertionError as error:
            last: object = error
            cause: AssertionError | None = error
        else:
            if answer:
                return answer
            last, cause = answer, None
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come about in {timeout_seconds} s; last seen: {last!r}") from cause
        await asyncio.sleep(pause_seconds)
        pause_seconds = min(pause_seconds * 1.5, _PAUSE_SECONDS_MAX)
