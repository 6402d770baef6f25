"""The inbox: what providers sent, as received, and whether it was dealt with."""

from dataclasses import dataclass

from services.payment.providers import ProviderName
from services.payment.rules.decision import Outcome
from shared.db import Connection


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event of the inbox, locked: `outcome` is None unless it was completed."""

    first_received_at_us: int
    outcome: Outcome | None


async def lock_event(
    connection: Connection, provider: ProviderName, event_id: str, event_type: str, body: bytes, now_us: int
) -> Arrival:
    """Keep an event, or find the one that is there; concurrent copies wait for one another here."""
    row = await connection.fetchrow(
        """
        insert into inbox (provider, event_id, type, body, first_received_at) values ($1, $2, $3, $4, $5)
        on conflict (provider, event_id) do update set outcome = inbox.outcome
        returning first_received_at, outcome
        """,
        provider,
        event_id,
        event_type,
        body,
        now_us,
    )
    assert row is not None, "an upsert answers a row"
    return Arrival(*row)


async def complete_event(
    connection: Connection, provider: ProviderName, event_id: str, outcome: Outcome, now_us: int
) -> None:
    await connection.execute(
        "update inbox set completed_at = $3, outcome = $4 where provider = $1 and event_id = $2",
        provider,
        event_id,
        now_us,
        outcome,
    )
