"""HTTP over restores, the same for every service: what was set back, what was lost, and an operator's confirmation."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from shared.clock import Clock, format_instant
from shared.cursors import After, Cursors
from shared.db import Connection, Pool, ensure_partitions, transaction
from shared.errors import Refusal
from shared.events.service import SOURCES, ConfirmedData, ServiceName, ServiceRestoreConfirmed
from shared.operators import OperatorWord
from shared.outbox import SERVICE_STREAM, Message, append_messages
from shared.restore_records import Lost, Restore, confirm_restores, load_lost, load_restores
from shared.topics import SERVICE_EVENTS

# What is known now of lost items, in their order: None where there is nothing to compare with.
LoadPresent = Callable[[Connection, Sequence[Lost]], Awaitable[Sequence[Mapping[str, Any] | None]]]
Incarnation = Annotated[int, Path(ge=1, lt=2**22)]
_LOST = Cursors("lost", ("", ""))

Limit = Annotated[int, Query(ge=1, le=1000)]


async def _load_nothing(_connection: Connection, lost: Sequence[Lost]) -> Sequence[Mapping[str, Any] | None]:
    return [None] * len(lost)


def restore_routes(
    pool: Pool, clock: Clock, service: ServiceName, load_present: LoadPresent = _load_nothing
) -> APIRouter:
    router = APIRouter(prefix="/v1/restores", tags=["restores"])

    @router.get("")
    async def list_restores() -> dict[str, list[dict[str, Any]]]:
        """Every restore of this service's database, the latest first."""
        async with transaction(pool) as connection:
            return {"restores": [_describe(restore) for restore in await load_restores(connection)]}

    @router.get("/{incarnation}/lost")
    async def list_lost(incarnation: Incarnation, after: After = None, limit: Limit = 100) -> dict[str, Any]:
        """A page of what a restore could not get back, each with what was last told and what is known now."""
        async with transaction(pool) as connection:
            lost = await load_lost(connection, incarnation, _LOST.read(after, str(incarnation)), limit)
            present = await load_present(connection, lost)
        last = (lost[-1].kind, lost[-1].item) if len(lost) == limit else None
        return {
            "lost": [_describe_lost(item, now) for item, now in zip(lost, present, strict=True)],
            "next": _LOST.write(last, str(incarnation)),
        }

    @router.post("/{incarnation}/confirm")
    async def confirm(incarnation: Incarnation, word: OperatorWord) -> dict[str, object]:
        """Confirm a restore and those before it: deletions go on."""
        now_us = clock.now_us()
        async with transaction(pool) as connection:
            if not await confirm_restores(connection, incarnation, word.actor, word.reason, now_us):
                raise Refusal(
                    "no-open-restore", f"{service} has no restore {incarnation} that is not confirmed", status=404
                )
            await ensure_partitions(connection, "outbox", now_us)
            await append_messages(connection, [_confirmed_message(service, incarnation, word, now_us)], now_us)
        return {"service": service, "incarnation": incarnation, "status": "confirmed"}

    return router


def _confirmed_message(service: ServiceName, incarnation: int, word: OperatorWord, now_us: int) -> Message:
    event = ServiceRestoreConfirmed(
        id=f"{service}/restore_confirmed/{incarnation}",
        source=SOURCES[service],
        subject=service,
        time=now_us,
        data=ConfirmedData(
            service=service, incarnation=incarnation, confirmed_at=now_us, actor=word.actor, reason=word.reason
        ),
    )
    return Message(SERVICE_STREAM, SERVICE_EVENTS, f"{service}/confirmed".encode(), event.model_dump_json().encode())


def _describe(restore: Restore) -> dict[str, Any]:
    return {
        "incarnation": restore.incarnation,
        "noticed": restore.noticed,
        "restored_at": format_instant(restore.restored_at_us),
        "told_until": _instant(restore.told_until_us),
        "finished_at": _instant(restore.finished_at_us),
        "confirmed_at": _instant(restore.confirmed_at_us),
        "confirmed_by": restore.confirmed_by,
        "confirm_reason": restore.confirm_reason,
    }


def _describe_lost(item: Lost, present: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "kind": item.kind,
        "item": item.item,
        "region": item.region,
        "tenant_id": item.tenant_id,
        "told_at": format_instant(item.told_at_us),
        "told": dict(item.detail),
        "present": None if present is None else dict(present),
    }


def _instant(instant_us: int | None) -> str | None:
    return None if instant_us is None else format_instant(instant_us)
