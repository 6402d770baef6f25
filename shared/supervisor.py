"""Keeps the loops of one service process running, and tells whether they are."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass

from prometheus_client import Counter

from shared.db import is_transient
from shared.log import get_logger

logger = get_logger(__name__)

BACKOFF_SECONDS_MAX = 5.0
# A loop that ran this long before it failed starts again without a growing pause.
STEADY_SECONDS = 30.0

LOOP_FAILURES = Counter("tollkeeper_loop_failures_total", "How often a loop failed and was started again", ["loop"])

Loop = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class LoopState:
    running: bool = False
    failures: int = 0
    error: str = ""
    began: float = 0.0


class Supervisor:
    """Runs named loops until a signal comes; a loop that fails is started again with backoff.

    Loops that are a service's `own` are those on which nothing hangs that it receives or answers: their failures are
    told, and do not make it unready, which would take everybody's requests away from it.
    """

    def __init__(self, loops: Mapping[str, Loop], *, own: Collection[str] = ()) -> None:
        self._loops = dict(loops)
        self._own = frozenset(own)
        self._stopping = False
        self.states = {name: LoopState() for name in loops}

    async def run(self) -> None:
        """Run every loop until SIGTERM or SIGINT, then cancel them and wait for each to end."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        tasks = [asyncio.create_task(self._keep(name), name=name) for name in self._loops]
        try:
            await stop.wait()
        finally:
            logger.info("service.stopping")
            self._stopping = True
            for task in reversed(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            logger.info("service.stopped")

    async def _keep(self, name: str) -> None:
        state = self.states[name]
        backoff_seconds = 0.1
        while True:
            state.began = time.monotonic()
            state.running = True
            try:
                # A task of its own each time: nothing that was cancelled within the last one counts for this one.
                await asyncio.create_task(self._start(name), name=name)
                state.error = "ended by itself"
            except asyncio.CancelledError:
                if self._stopping:
                    raise
                # Something within was cancelled, as libraries do with their own tasks: a fault.
                state.error = "cancelled from within"
                logger.warning("loop.fault", loop=name, error=state.error)
            except Exception as error:  # noqa: BLE001 - whatever ends a loop, it starts again
                state.error = _report(name, error)
            state.running = False
            state.failures += 1
            LOOP_FAILURES.labels(name).inc()
            if time.monotonic() - state.began > STEADY_SECONDS:
                backoff_seconds = 0.1
            await asyncio.sleep(backoff_seconds)
            backoff_seconds = min(backoff_seconds * 2, BACKOFF_SECONDS_MAX)

    async def _start(self, name: str) -> None:
        await self._loops[name]()

    def problems(self) -> dict[str, str]:
        """The loops that the service hangs on and that do not run now, with their last error."""
        return {
            name: state.error or "starting"
            for name, state in self.states.items()
            if not state.running and name not in self._own
        }

    def failing(self) -> dict[str, str]:
        """The service's own loops that do not run now, or failed and have not run steadily since; their last error."""
        now = time.monotonic()
        return {
            name: state.error
            for name, state in self.states.items()
            if name in self._own and state.error and (not state.running or now - state.began <= STEADY_SECONDS)
        }


def _report(name: str, error: Exception) -> str:
    """Log why a loop failed, and answer it. What can't be written down must not keep the loop from starting again."""
    text = type(error).__name__
    try:
        text = repr(error)[:500]
        if is_transient(error):
            logger.warning("loop.fault", loop=name, error=text)
        else:
            logger.error("loop.failed", loop=name, exc_info=error)
    except Exception as fault:  # noqa: BLE001 - whatever describing an error makes of it
        logger.error("loop.failed", loop=name, error=text, not_written=type(fault).__name__)  # noqa: TRY400 - it failed
    return text
