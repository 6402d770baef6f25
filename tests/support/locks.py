"""Who waits for a lock, to make a race certain."""

from shared.db import Pool

_WAITING = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"


async def count_lock_waits(pool: Pool) -> int:
    """How many sessions of the pool's database wait for a lock that another one holds."""
    return int(await pool.fetchval(_WAITING))
