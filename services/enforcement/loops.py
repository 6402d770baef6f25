"""The loops of the service, each kept alive by the supervisor. They pace themselves by real time, not by the clock."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from services.enforcement.app.enforce import BATCH


async def run_passes(
    do_pass: Callable[[], Awaitable[int]], interval_seconds: float, hint: asyncio.Event | None = None
) -> None:
    """Do passes until cancelled; after one that was full, or a hint, the next follows at once."""
    hint = asyncio.Event() if hint is None else hint
    while True:
        hint.clear()
        while await do_pass() == BATCH:
            pass
        with suppress(TimeoutError):
            async with asyncio.timeout(interval_seconds):
                await hint.wait()
