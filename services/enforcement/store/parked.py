"""SQL of events from beyond the present, which wait until the clock reaches them."""

from collections.abc import Sequence
from typing import NamedTuple

import orjson

from services.enforcement.handlers import FutureFact
from shared.db import Connection


class ParkedKey(NamedTuple):
    source: str
    event_id: str
    subject: str


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


async def load_due_parked(connection: Connection, now_us: int, limit: int) -> list[ParkedKey]:
    """Which events are due and not set aside, without a lock, the longest due first."""
    rows = await connection.fetch(
        """
        select source, event_id, subject from parked_event p
        where due_at <= $1 and applied_at is null
          and not exists (select from set_aside s
            where (s.kind, s.item) = ('parked', p.source || ' ' || p.event_id || ' ' || p.subject)
              and still_held(s, $1))
        order by due_at limit $2
        """,
        now_us,
        limit,
    )
    return [ParkedKey(*row) for row in rows]


async def take_parked(connection: Connection, keys: Sequence[ParkedKey], now_us: int) -> list[dict[str, object]]:
    """The envelopes of those that nobody has applied or is applying, marked as applied in this transaction."""
    rows = await connection.fetch(
        """
        update parked_event set applied_at = $1
        where (source, event_id, subject) in (
          select source, event_id, subject from parked_event
          join unnest($2::text[], $3::text[], $4::text[]) k(source, event_id, subject) using (source, event_id, subject)
          where applied_at is null for update of parked_event skip locked)
        returning envelope, due_at
        """,
        now_us,
        *(list(column) for column in zip(*keys, strict=True)),
    )
    return [orjson.loads(row["envelope"]) for row in sorted(rows, key=lambda row: row["due_at"])]
