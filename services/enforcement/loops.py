"""The loops of the service, each kept alive by the supervisor. They pace themselves by real time, not by the clock."""

import asyncio
from collections.abc import Awaitable, Callable

from services.enforcement.app.enforce import BATCH


async def run_passes(do_pass: Callable[[], Awaitable[int]], interval_seconds: float) -> None:
    """Do passes until cancelled; after one that was full the next follows at once."""
    while True:
        while await do_pass() == BATCH:
            pass
        await asyncio.sleep(interval_seconds)
