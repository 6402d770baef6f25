"""The inbox: what providers sent, as received, and whether it was dealt with."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.payment.providers import ProviderName
from services.payment.rules.decision import Outcome
from services.payment.store.payments import LOCK_PAYMENT_IDS
from shared.db import Connection


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event of the inbox, locked: `outcome` is None unless it had been completed before."""

    first_received_at_us: int
    outcome: Outcome | None
    is_new: bool


async def lock_event(
    connection: Connection,
    provider: ProviderName,
    event_id: str,
    event_type: str,
    body: bytes,
    payment_ids: Sequence[str],
    now_us: int,
) -> Arrival:
    """Keep an event, or find the one that is there; concurrent copies wait for one another here.

    A new one is written as completed and applied, which `finish_event` changes where it turns out otherwise: both are
    seen together or not at all. Also takes the locks of `lock_payment_ids`, to spare the busiest path a round trip.
    """
    row = await connection.fetchrow(
        f"""
        with event as (
          insert into inbox (provider, event_id, type, body, first_received_at, completed_at, outcome)
          values ($1, $2, $3, $4, $5, $5, 'applied')
          on conflict (provider, event_id) do update set outcome = inbox.outcome
          returning first_received_at, outcome, xmax = 0 as is_new
        ), locks as materialized ({LOCK_PAYMENT_IDS.replace("$1", "$6")})
        select first_received_at, case when not is_new then outcome end, is_new, (select count(*) from locks) from event
        """,  # noqa: S608 - constants
        provider,
        event_id,
        event_type,
        body,
        now_us,
        payment_ids,
    )
    assert row is not None, "an upsert answers a row"
    return Arrival(row[0], row[1], row[2])


async def finish_event(
    connection: Connection, provider: ProviderName, event_id: str, outcome: Outcome | None, now_us: int
) -> None:
    """Say what became of an event; None leaves it open, to be sent again."""
    await connection.execute(
        "update inbox set completed_at = $3, outcome = $4 where provider = $1 and event_id = $2",
        provider,
        event_id,
        None if outcome is None else now_us,
        outcome,
    )
