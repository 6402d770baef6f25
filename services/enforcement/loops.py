"""The loops of the service, each kept alive by the supervisor. They pace themselves by real time, not by the clock."""

import asyncio

from services.enforcement.app.enforce import BATCH, Enforce
from services.enforcement.app.sweep import Sweep
from services.enforcement.app.timers import Timers


async def run_stops(enforce: Enforce) -> None:
    """Send due stop commands and apply parked events until cancelled."""
    while True:
        while await enforce.apply_parked() == BATCH:
            pass
        while await enforce.send_held_back_stops() == BATCH:
            pass
        while await enforce.repeat_stops() == BATCH:
            pass
        await asyncio.sleep(enforce.settings.enforcement_stop_poll_seconds)


async def run_timers(timers: Timers, interval_seconds: float) -> None:
    """Remind, and give up what is to be given up, until cancelled."""
    while True:
        while await timers.remind_due() == BATCH:
            pass
        while await timers.abandon_expired() == BATCH:
            pass
        await asyncio.sleep(interval_seconds)


async def run_sweep(sweep: Sweep, interval_seconds: float) -> None:
    """Sweep until cancelled; a fault of balance ends this pass and the supervisor starts the loop again."""
    while True:
        await sweep.sweep()
        await asyncio.sleep(interval_seconds)
