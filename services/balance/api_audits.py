"""HTTP of the audit: begin one, and see what the last one found."""

from typing import Any

from fastapi import APIRouter

from services.balance.app.audits import Auditor
from shared.clock import format_instant

DIFFERENCES_MAX = 1000


class AuditsApi:
    def __init__(self, auditor: Auditor) -> None:
        self._auditor = auditor
        self.router = APIRouter(prefix="/v1/audits", tags=["audit"])
        self.router.add_api_route("", self.start, methods=["POST"], status_code=202)
        self.router.add_api_route("", self.last, methods=["GET"])

    async def start(self) -> dict[str, Any]:
        """Begin an audit of all accounts, unless one runs."""
        self._auditor.ask()
        return await self.last()

    async def last(self) -> dict[str, Any]:
        """The last audit: its state (none, running, done, failed), and the first differences with their number."""
        audit = self._auditor.last
        if self._auditor.is_running or audit is None:
            return {"state": "running" if self._auditor.is_running else "none"}
        found = audit.differences
        return {
            "state": "failed" if found is None else "done",
            "started_at": format_instant(audit.started_at_us),
            "finished_at": None if audit.finished_at_us is None else format_instant(audit.finished_at_us),
            "fault": audit.fault,
            "count": None if found is None else len(found),
            "differences": list(found or [])[:DIFFERENCES_MAX],
        }
