"""SQL of halts: deletions of a region, or of all, wait for an operator while one is open.

Whoever finds a reason inserts one: this service's clock guard, or what hears that a service was restored.
"""

from dataclasses import dataclass

from services.enforcement.store.restores import load_unconfirmed
from shared.db import Connection


@dataclass(frozen=True, slots=True)
class Halt:
    """`service`: whose trouble it is. `region` None: every region."""

    service: str
    region: str | None
    reason: str
    halted_at_us: int


async def insert_halt(connection: Connection, service: str, region: str | None, reason: str, now_us: int) -> bool:
    """Halt deletions; False if the same service has halted them there already."""
    status = await connection.execute(
        "insert into halt (service, region, reason, halted_at) values ($1, $2, $3, $4) on conflict do nothing",
        service,
        region,
        reason,
        now_us,
    )
    return status == "INSERT 0 1"


async def load_halts(connection: Connection) -> list[Halt]:
    """The open halts, the oldest first, then restores: each of those ends with its own confirmation."""
    rows = await connection.fetch(
        "select service, region, reason, halted_at from halt where resumed_at is null order by halt_id"
    )
    restores = [
        Halt(service, None, f"restore {incarnation} of {service} is not confirmed by an operator", restored_at_us)
        for service, incarnation, restored_at_us in await load_unconfirmed(connection)
    ]
    return [Halt(*row) for row in rows] + restores


async def load_halts_of(connection: Connection, region: str) -> tuple[str, ...]:
    """Why deletions of a region wait, the oldest first; empty: they do not."""
    return tuple(halt.reason for halt in await load_halts(connection) if halt.region in {None, region})


async def end_halts(
    connection: Connection, actor: str, reason: str, now_us: int, *, service: str | None = None
) -> list[Halt]:
    """Let deletions continue by an operator's decision; return the halts that it ended, of one service or of all."""
    rows = await connection.fetch(
        """
        update halt set resumed_at = $1, resumed_by = $2, resume_reason = $3
        where resumed_at is null and ($4::text is null or service = $4)
        returning service, region, reason, halted_at
        """,
        now_us,
        actor,
        reason,
        service,
    )
    return [Halt(*row) for row in rows]


async def load_clock_mark(connection: Connection) -> int | None:
    """The latest instant at which the service ran and believed its clock."""
    seen_at_us: int | None = await connection.fetchval("select seen_at from clock_mark")
    return seen_at_us


async def save_clock_mark(connection: Connection, now_us: int) -> None:
    await connection.execute(
        "insert into clock_mark (seen_at) values ($1) on conflict (only_row) do update set seen_at = excluded.seen_at",
        now_us,
    )
