"""The audit beside the service: in a process of its own, every so often and when an operator asks for it."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from services.balance import metrics
from shared.clock import Clock
from shared.log import get_logger

logger = get_logger(__name__)

COMMAND = (sys.executable, "-m", "services.balance.main", "audit")
# An exit code of the audit that says: it ran to its end, and found differences.
FOUND = 1


@dataclass(frozen=True, slots=True)
class Audit:
    """One run. `differences` is None while it runs; `fault`: why it did not end."""

    started_at_us: int
    finished_at_us: int | None = None
    differences: Sequence[str] | None = None
    fault: str | None = None


class Auditor:
    """Runs one audit at a time. Reading every byte must not stand in the way of posting."""

    def __init__(self, clock: Clock, every_seconds: float, command: Sequence[str] = COMMAND) -> None:
        self._clock = clock
        self._every_seconds = every_seconds
        self._command = command
        self._wanted = asyncio.Event()
        self.last: Audit | None = None

    @property
    def is_running(self) -> bool:
        return self._wanted.is_set() or (self.last is not None and self.last.finished_at_us is None)

    def ask(self) -> None:
        """Let an audit begin now, unless one runs already."""
        if not self.is_running:
            self._wanted.set()

    async def run(self) -> None:
        """Audit until cancelled."""
        while True:
            try:
                await asyncio.wait_for(self._wanted.wait(), self._every_seconds)
            except TimeoutError:
                logger.info("audit.due")
            self.last = Audit(self._clock.now_us())
            self._wanted.clear()
            self.last = await self._audit(self.last.started_at_us)
            self._tell(self.last)

    async def _audit(self, started_at_us: int) -> Audit:
        process = await asyncio.create_subprocess_exec(
            *self._command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        finished_at_us = self._clock.now_us()
        if process.returncode not in (0, FOUND):
            return Audit(started_at_us, finished_at_us, fault=err.decode(errors="replace")[-500:])
        return Audit(started_at_us, finished_at_us, orjson.loads(out)["differences"])

    def _tell(self, audit: Audit) -> None:
        if audit.differences is None:
            logger.error("audit.failed", fault=audit.fault)
            return
        metrics.AUDIT_DIFFERENCES.set(len(audit.differences))
        metrics.AUDITED_AT.set((audit.finished_at_us or 0) / 1_000_000)
        if audit.differences:
            logger.error("audit.differences", count=len(audit.differences), first=list(audit.differences[:5]))
