"""HTTP of the audit: begin one, see what the last one found, and the chain's heads to keep elsewhere."""

from typing import Any

from fastapi import APIRouter

from services.balance.app.anchors import load_chain_heads
from services.balance.app.audits import EVERYTHING, Auditor, AuditRequest
from services.balance.store.accounts import load_account
from shared.clock import format_instant
from shared.db import Pool, transaction
from shared.errors import Refusal

DIFFERENCES_MAX = 1000


class AuditsApi:
    def __init__(self, pool: Pool, auditor: Auditor) -> None:
        self._pool = pool
        self._auditor = auditor
        self.router = APIRouter(prefix="/v1", tags=["audit"])
        self.router.add_api_route("/audits", self.start, methods=["POST"], status_code=202)
        self.router.add_api_route("/audits", self.last, methods=["GET"])
        self.router.add_api_route("/chain-heads", self.heads, methods=["GET"])

    async def start(self, request: AuditRequest = EVERYTHING) -> dict[str, Any]:
        """Begin an audit of an account or of all; 409 while one runs that was asked for something else."""
        if request.account is not None:
            region, tenant_id = request.account.region, request.account.tenant_id
            async with transaction(self._pool) as connection:
                if await load_account(connection, region, tenant_id) is None:
                    raise Refusal("account-not-found", f"there is no account {region}/{tenant_id}", status=404)
        running = self._auditor.running_request
        if not self._auditor.ask(request) and running != request:
            raise Refusal("audit-running", "another audit runs; ask again when it has ended")
        return await self.last()

    async def heads(self) -> dict[str, Any]:
        """The heads of the ledger's hash chain, by shard: what `ledger.anchors.v1` tells every so often."""
        async with transaction(self._pool) as connection:
            return {"heads": [head.model_dump(mode="json") for head in await load_chain_heads(connection)]}

    async def last(self) -> dict[str, Any]:
        """The last audit: its state (none, running, done, failed), how far it is, and the first differences.

        A difference has `account` (or the shard), `minute` and `what`.
        """
        audit = self._auditor.last
        if self._auditor.is_running or audit is None:
            part, found_so_far = self._auditor.progress or (None, 0)
            return {"state": "running" if self._auditor.is_running else "none", "part": part, "found": found_so_far}
        found = audit.differences
        return {
            "state": "failed" if found is None else "done",
            "started_at": format_instant(audit.started_at_us),
            "finished_at": None if audit.finished_at_us is None else format_instant(audit.finished_at_us),
            "fault": audit.fault,
            "count": None if found is None else len(found),
            "differences": list(found or [])[:DIFFERENCES_MAX],
        }
