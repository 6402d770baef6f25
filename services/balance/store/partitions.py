"""Daily partitions of the ledger, made before anything is inserted into them."""

from datetime import date

from shared.clock import DAY_US
from shared.db import Connection, day_of

_LEDGER_DAYS_AHEAD = 2


async def ensure_ledger_partitions(connection: Connection, now_us: int) -> None:
    """Make the partitions from yesterday to two days ahead, each append-only."""
    first, last = day_of(now_us - DAY_US), day_of(now_us + _LEDGER_DAYS_AHEAD * DAY_US)
    await connection.execute("select ensure_ledger_partitions($1, $2)", first, last)


async def ensure_day(connection: Connection, day: date) -> None:
    """Make the partitions of one day, the outbox's too: a clock may jump past what was made ahead."""
    await connection.execute("select ensure_ledger_partitions($1, $1), ensure_day_partitions('outbox', $1, $1)", day)
