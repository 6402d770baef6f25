"""SQL of what an operator looks at first: what is open, for how long, and why it does not go on."""

from dataclasses import dataclass

from shared.db import Connection

REASONS_MAX = 20


@dataclass(frozen=True, slots=True)
class StopsStatus:
    """Open stop requests. `unsent` wait for the breaker; `attempts_max` tells of a platform that does not confirm."""

    open: int
    unsent: int
    oldest_requested_at_us: int | None
    attempts_max: int


@dataclass(frozen=True, slots=True)
class FrozenReason:
    reason: str
    cases: int
    oldest_due_at_us: int


@dataclass(frozen=True, slots=True)
class CasesStatus:
    """Cases by state. `overdue` are due and neither frozen nor a plan: balance or broker is out of reach."""

    by_state: dict[str, int]
    overdue: int
    oldest_overdue_at_us: int | None
    frozen: tuple[FrozenReason, ...]
    unconfirmed: int  # commanded deletions that were neither confirmed nor given up


async def load_stops_status(connection: Connection) -> StopsStatus:
    row = await connection.fetchrow(
        """
        select count(*) as open, count(*) filter (where next_attempt_at = requested_at) as unsent,
          min(requested_at) as oldest, coalesce(max(attempts), 0) as attempts_max
        from stop_request where ended_at is null
        """
    )
    assert row is not None
    return StopsStatus(*row)


async def load_cases_status(connection: Connection, now_us: int) -> CasesStatus:
    counts = await connection.fetch("select state, count(*) as cases from deletion_case group by state order by state")
    overdue = await connection.fetchrow(
        """
        select count(*) as cases, min(due_at) as oldest from deletion_case
        where due_at <= $1 and state in ('scheduled', 'carrying_out')
        """,
        now_us,
    )
    assert overdue is not None
    frozen = await connection.fetch(
        """
        select coalesce(reason, '') as reason, count(*) as cases, min(due_at) as oldest from deletion_case
        where state = 'frozen' group by 1 order by 2 desc, 1 limit $1
        """,
        REASONS_MAX,
    )
    unconfirmed = await connection.fetchval(
        "select count(*) from deletion_target "
        "where command_expires_at is not null and done_at is null and abandoned_at is null"
    )
    return CasesStatus(
        {row["state"]: row["cases"] for row in counts},
        overdue["cases"],
        overdue["oldest"],
        tuple(FrozenReason(*row) for row in frozen),
        unconfirmed,
    )
