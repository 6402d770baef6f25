"""Waiting for a state by asking for it, in blocking code."""

import time
from collections.abc import Callable
from typing import TypeVar

_Answer = TypeVar("_Answer")
_PAUSE_SECONDS_MAX = 0.1


def wait_for(check: Callable[[], _Answer], *, timeout_seconds: float = 60, what: Callable[[], str] | str) -> _Answer:
    """Ask until the answer is true, and give that answer; after the time-out fail with `what` was waited for."""
    deadline = time.monotonic() + timeout_seconds
    pause_seconds = 0.01
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {timeout_seconds} s: {what if isinstance(what, str) else what()}")
        time.sleep(pause_seconds)
        pause_seconds = min(pause_seconds * 1.3, _PAUSE_SECONDS_MAX)
