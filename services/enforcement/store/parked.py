"""SQL of events from beyond the present, which wait until the clock reaches them."""

from collections.abc import Sequence

import orjson

from services.enforcement.handlers import FutureFact
from shared.db import Connection


async def insert_parked(connection: Connection, facts: Sequence[FutureFact]) -> None:
    await connection.executemany(
        """
        insert into parked_event (source, event_id, subject, due_at, envelope) values ($1, $2, $3, $4, $5)
        on conflict do nothing
        """,
        [
            (fact.source, fact.event_id, fact.subject, fact.due_at_us, orjson.dumps(fact.envelope).decode())
            for fact in facts
        ],
    )


async def take_parked(connection: Connection, now_us: int, limit: int) -> list[dict[str, object]]:
    """The envelopes that are due, marked as applied in this transaction."""
    rows = await connection.fetch(
        """
        update parked_event set applied_at = $1
        where (source, event_id, subject) in (
          select source, event_id, subject from parked_event
          where due_at <= $1 and applied_at is null order by due_at limit $2 for update skip locked)
        returning envelope, due_at
        """,
        now_us,
        limit,
    )
    return [orjson.loads(row["envelope"]) for row in sorted(rows, key=lambda row: row["due_at"])]
