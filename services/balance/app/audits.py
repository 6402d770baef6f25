"""The audit beside the service: in a process of its own, every so often and when an operator asks for it."""

import asyncio
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import orjson
from pydantic import BaseModel, ConfigDict, Field

from services.balance import metrics
from services.balance.audit import audit
from services.balance.audit.chain import Anchor
from services.balance.audit.difference import Difference
from services.balance.store.accounts import load_account
from shared.clock import Clock
from shared.db import Connection
from shared.events.anchors import ChainHead
from shared.events.cloudevents import RegionName, TenantId
from shared.log import get_logger

logger = get_logger(__name__)

COMMAND = (sys.executable, "-m", "services.balance.main", "audit")
# An exit code of the audit that says: it ran to its end, and found differences.
# Not 1, with which Python ends a program that raises.
FOUND = 10
# How the process says how far it is, a line each on standard error.
PROGRESS = "audit.part"
_LAST_LINES = 20
# A traceback is one line of a log.
_LINE_BYTES_MAX = 16 * 1024 * 1024


class AuditedAccount(BaseModel):
    """The account to audit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    region: RegionName
    tenant_id: TenantId


class AuditRequest(BaseModel):
    """What to audit: an account or all, and heads of the chain that were kept elsewhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    account: AuditedAccount | None = None
    anchors: Annotated[list[ChainHead], Field(max_length=10_000)] = []


EVERYTHING = AuditRequest()


async def carry_out(connection: Connection, request: AuditRequest) -> list[Difference]:
    """Audit by a request. Raises ValueError for an account that there is not."""
    account_id = None
    if request.account is not None:
        account = await load_account(connection, request.account.region, request.account.tenant_id)
        if account is None:
            raise ValueError(f"there is no account {request.account.region}/{request.account.tenant_id}")
        account_id = account.account_id
    anchors = [
        Anchor(head.shard, head.link_number, bytes.fromhex(head.link), head.posted_at) for head in request.anchors
    ]
    return await audit(connection, account_id, anchors=anchors, progress=_tell_progress)


def _tell_progress(part: str, found: int) -> None:
    logger.info(PROGRESS, part=part, found=found)


@dataclass(frozen=True, slots=True)
class Audit:
    """One run. `differences` (account, minute, what) is None while it runs; `fault`: why it did not end."""

    started_at_us: int
    finished_at_us: int | None = None
    differences: Sequence[Mapping[str, str | None]] | None = None
    fault: str | None = None
    request: AuditRequest = EVERYTHING


class Auditor:
    """Runs one audit at a time. Reading every byte must not stand in the way of posting."""

    def __init__(self, clock: Clock, every_seconds: float, command: Sequence[str] = COMMAND) -> None:
        self._clock = clock
        self._every_seconds = every_seconds
        self._command = command
        self._wanted = asyncio.Event()
        self._request = EVERYTHING
        self.last: Audit | None = None
        # The part that the running one is at, and how many differences it has found before.
        self.progress: tuple[str, int] | None = None

    @property
    def is_running(self) -> bool:
        return self._wanted.is_set() or (self.last is not None and self.last.finished_at_us is None)

    @property
    def running_request(self) -> AuditRequest | None:
        """What the audit that runs, or is about to, was asked for."""
        if self._wanted.is_set():
            return self._request
        return self.last.request if self.is_running and self.last is not None else None

    def ask(self, request: AuditRequest = EVERYTHING) -> bool:
        """Let an audit begin now; False if one runs already."""
        if self.is_running:
            return False
        self._request = request
        self._wanted.set()
        return True

    async def run(self) -> None:
        """Audit until cancelled."""
        while True:
            try:
                await asyncio.wait_for(self._wanted.wait(), self._every_seconds)
            except TimeoutError:
                logger.info("audit.due")
            request, self._request = self._request, EVERYTHING
            self.last = Audit(self._clock.now_us(), request=request)
            self._wanted.clear()
            self.last = await self._audit(self.last.started_at_us, request)
            self.progress = None
            self._tell(self.last)

    async def _audit(self, started_at_us: int, request: AuditRequest) -> Audit:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, stderr=pipe, limit=_LINE_BYTES_MAX
        )
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdin.write(request.model_dump_json().encode())
            process.stdin.close()
            out, last_words = await asyncio.gather(process.stdout.read(), self._follow(process.stderr))
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
        finished_at_us = self._clock.now_us()
        if process.returncode not in (0, FOUND):
            return Audit(started_at_us, finished_at_us, None, last_words[-500:], request)
        return Audit(started_at_us, finished_at_us, orjson.loads(out)["differences"], None, request)

    async def _follow(self, stderr: asyncio.StreamReader) -> str:
        """Note how far the process is; answer its last other words."""
        words: deque[str] = deque(maxlen=_LAST_LINES)
        while line := await stderr.readline():
            text = line.decode(errors="replace").rstrip()
            try:
                told = orjson.loads(text)
            except orjson.JSONDecodeError:
                told = None
            if isinstance(told, dict) and told.get("event") == PROGRESS:
                self.progress = str(told.get("part")), int(told.get("found") or 0)
            else:
                words.append(text)
        return "\n".join(words)

    def _tell(self, audit: Audit) -> None:
        if audit.differences is None:
            logger.error("audit.failed", fault=audit.fault)
            return
        if audit.request.account is None:
            metrics.AUDIT_DIFFERENCES.set(len(audit.differences))
            metrics.AUDITED_AT.set((audit.finished_at_us or 0) / 1_000_000)
        if audit.differences:
            logger.error("audit.differences", count=len(audit.differences), first=list(audit.differences[:5]))
