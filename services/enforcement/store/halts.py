"""SQL of halts: deletions wait for an operator while one is open."""

from shared.db import Connection


async def insert_halt(connection: Connection, reason: str, now_us: int) -> None:
    """Halt deletions, unless they are halted already."""
    await connection.execute(
        "insert into halt (reason, halted_at) values ($1, $2) on conflict do nothing", reason, now_us
    )


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
