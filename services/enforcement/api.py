"""HTTP in: what enforcement knows and plans, for people and for the command line."""

from typing import Annotated

from fastapi import APIRouter, Query

from services.enforcement.rules.account import AccountKey
from services.enforcement.rules.deletion import CaseState
from services.enforcement.service import Service
from services.enforcement.store.cases import describe_cases
from services.enforcement.store.halts import Halt, end_halts, load_halts
from services.enforcement.store.status import CasesStatus, StopsStatus, load_cases_status, load_stops_status
from services.enforcement.store.stops import StopRequest, load_open_requests
from services.enforcement.store.sweep_turns import load_swept_at
from shared.clock import format_instant
from shared.cursors import After, Cursors
from shared.db import transaction
from shared.errors import Refusal
from shared.events.cloudevents import RegionName, TenantId
from shared.operators import OperatorWord, Words
from shared.set_aside import count_set_aside

_CASES = Cursors("deletion-cases", ("",))
Limit = Annotated[int, Query(ge=1, le=1000)]


class ResumeBody(OperatorWord):
    """`service`: whose trouble is over; without it, everybody's."""

    service: Words | None = None


def create_routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1")
    pool = service.pool

    @router.get("/status")
    async def status() -> dict[str, object]:
        positions = await service.positions.load()
        async with transaction(pool) as connection:
            row = await connection.fetchrow(
                """
                select coalesce((select sum(h.seq - c.published_seq)
                                 from stream_head h join outbox_cursor c using (stream)), 0)::bigint as unpublished,
                       (select count(*) from dead_letter where replayed_at is null) as dead,
                       (select count(*) from parked_event where applied_at is null) as parked
                """
            )
            stops = await load_stops_status(connection)
            cases = await load_cases_status(connection, service.clock.now_us())
            halts = await load_halts(connection)
            aside = await count_set_aside(connection)
            swept_at_us = await load_swept_at(connection)
        assert row is not None
        return {
            "now": format_instant(service.clock.now_us()),
            "positions": positions,
            **dict(row),
            "swept_at": _instant(swept_at_us),
            "stops": _describe_stops(stops),
            "deletions": {"halts": [_describe_halt(halt) for halt in halts], **_describe_cases(cases)},
            "set_aside": aside,
        }

    @router.post("/resume")
    async def resume_deletions(body: ResumeBody) -> dict[str, object]:
        """Let deletions continue that wait for an operator: because of one service, or of all."""
        async with transaction(pool) as connection:
            ended = await end_halts(connection, body.actor, body.reason, service.clock.now_us(), service=body.service)
        if not ended:
            raise Refusal("not-halted", "deletions are not halted")
        return {"status": "resumed", "ended": [_describe_halt(halt) for halt in ended]}

    @router.get("/stops")
    async def stops(limit: Limit = 1000) -> dict[str, list[dict[str, object]]]:
        async with transaction(pool) as connection:
            return {"stops": [_describe_stop(request) for request in await load_open_requests(connection, limit)]}

    @router.get("/deletion-cases")
    async def cases(after: After = None, limit: Limit = 1000, state: CaseState | None = None) -> dict[str, object]:
        (case_id,) = _CASES.read(after)
        async with transaction(pool) as connection:
            found = await describe_cases(connection, None, after=case_id, limit=limit, state=state)
        last = (str(found[-1]["case_id"]),) if len(found) == limit else None
        return {"deletion_cases": found, "next": _CASES.write(last)}

    @router.get("/deletion-cases/{region}/{tenant_id}")
    async def cases_of_account(region: RegionName, tenant_id: TenantId) -> dict[str, object]:
        async with transaction(pool) as connection:
            found = await describe_cases(connection, AccountKey(region, tenant_id), after="", limit=1000)
        if not found:
            raise Refusal("no-deletion-case", f"{region}/{tenant_id} has no deletion case", status=404)
        return {"deletion_cases": found, "next": None}

    return router


def _instant(instant_us: int | None) -> str | None:
    return None if instant_us is None else format_instant(instant_us)


def _describe_halt(halt: Halt) -> dict[str, object]:
    return {
        "service": halt.service,
        "region": halt.region,
        "reason": halt.reason,
        "halted_at": format_instant(halt.halted_at_us),
    }


def _describe_stops(stops: StopsStatus) -> dict[str, object]:
    return {
        "open": stops.open,
        "unsent": stops.unsent,
        "oldest_requested_at": _instant(stops.oldest_requested_at_us),
        "attempts_max": stops.attempts_max,
    }


def _describe_cases(cases: CasesStatus) -> dict[str, object]:
    return {
        "cases": cases.by_state,
        "overdue": cases.overdue,
        "oldest_overdue_at": _instant(cases.oldest_overdue_at_us),
        "unconfirmed": cases.unconfirmed,
        "frozen": [
            {"reason": item.reason, "cases": item.cases, "oldest_due_at": _instant(item.oldest_due_at_us)}
            for item in cases.frozen
        ],
    }


def _describe_stop(request: StopRequest) -> dict[str, object]:
    return {
        "region": request.key.region,
        "tenant_id": request.key.tenant_id,
        "resource_id": request.resource_id,
        "run": {"source": request.run.source, "event_id": request.run.event_id},
        "account_version": request.account_version,
        "attempts": request.attempts,
        "metering_only": request.metering_only,
        "requested_at": format_instant(request.requested_at_us),
        "next_attempt_at": format_instant(request.next_attempt_at_us),
    }
