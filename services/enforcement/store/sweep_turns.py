"""SQL of the sweep's turns: several processes share one sweep."""

from shared.db import Connection


async def claim_sweep(connection: Connection, interval_seconds: float) -> bool:
    """Whether the sweep is due and this process's to make; the next is due after the interval."""
    status = await connection.execute(
        "update sweep_turn set next_at = clock_timestamp() + make_interval(secs => $1) "
        "where next_at <= clock_timestamp()",
        interval_seconds,
    )
    return status == "UPDATE 1"


async def give_sweep_back(connection: Connection) -> None:
    """Let somebody else begin a sweep at once: this one did not end."""
    await connection.execute("update sweep_turn set next_at = clock_timestamp()")


async def save_swept(connection: Connection, started_us: int) -> None:
    """Note a complete sweep by when it began."""
    await connection.execute("update sweep_turn set swept_at = greatest(swept_at, $1)", started_us)


async def load_swept_at(connection: Connection) -> int | None:
    swept_at_us: int | None = await connection.fetchval("select swept_at from sweep_turn")
    return swept_at_us
