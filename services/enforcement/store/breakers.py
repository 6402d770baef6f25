"""SQL of breakers: how much of an allowance was used in a window of time."""

from shared.clock import DAY_US
from shared.db import Connection


async def take_allowance(connection: Connection, name: str, now_us: int, window_us: int, most: int, wanted: int) -> int:
    """Take up to `wanted` of what is left of `most` in the present window; return how many were granted.

    Locks the window's row until the end of the transaction; called after accounts are locked, before the outbox, and
    for several names in ascending order.
    """
    if wanted <= 0:
        return 0
    started_us = now_us - now_us % window_us
    inserted = await connection.execute(
        "insert into breaker values ($1, $2, 0) on conflict do nothing", name, started_us
    )
    if inserted == "INSERT 0 1":
        await connection.execute(
            "delete from breaker where name = $1 and window_started_at < $2", name, started_us - DAY_US
        )
    used: int = await connection.fetchval(
        "select used from breaker where name = $1 and window_started_at = $2 for update", name, started_us
    )
    granted = max(0, min(wanted, most - used))
    await connection.execute(
        "update breaker set used = used + $3 where name = $1 and window_started_at = $2", name, started_us, granted
    )
    return granted
