"""SQL of doubts: what holds up the deletions of a whole region, told once and not once per case."""

from shared.db import Connection

# Not seen for this long, a doubt is over: the next time is news again.
QUIET_SECONDS = 600


async def note_doubt(connection: Connection, region: str, cause: str) -> bool:
    """Note that a cause holds up a region's deletions now; return whether it is news."""
    return bool(
        await connection.fetchval(
            """
            insert into doubt (region, cause, seen_at) values ($1, $2, clock_timestamp())
            on conflict (region, cause) do update set seen_at = excluded.seen_at
            returning coalesce(old.seen_at < clock_timestamp() - make_interval(secs => $3), true)
            """,
            region,
            cause,
            QUIET_SECONDS,
        )
    )
