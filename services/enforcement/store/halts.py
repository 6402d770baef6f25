"""SQL of halts: deletions wait for an operator while one is open."""

from shared.db import Connection


async def insert_halt(connection: Connection, reason: str, now_us: int) -> bool:
    """Halt deletions; False if they are halted already."""
    status = await connection.execute(
        "insert into halt (reason, halted_at) values ($1, $2) on conflict do nothing", reason, now_us
    )
    return status == "INSERT 0 1"


async def load_halt(connection: Connection) -> str | None:
    reason: str | None = await connection.fetchval("select reason from halt where resumed_at is null")
    return reason


async def resume(connection: Connection, actor: str, reason: str, now_us: int) -> bool:
    """Let deletions go on by an operator's word; whether they were halted."""
    status = await connection.execute(
        "update halt set resumed_at = $1, resumed_by = $2, resume_reason = $3 where resumed_at is null",
        now_us,
        actor,
        reason,
    )
    return status == "UPDATE 1"


async def load_clock_mark(connection: Connection) -> int | None:
    """The latest instant at which the service ran and believed its clock."""
    seen_at_us: int | None = await connection.fetchval("select seen_at from clock_mark")
    return seen_at_us


async def save_clock_mark(connection: Connection, now_us: int) -> None:
    await connection.execute(
        "insert into clock_mark (seen_at) values ($1) on conflict (only_row) do update set seen_at = excluded.seen_at",
        now_us,
    )
