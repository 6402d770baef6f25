"""The inbox: what providers sent, as received, and whether it was dealt with."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.payment.providers import ProviderName
from services.payment.rules.decision import Outcome
from services.payment.store.payments import LOCK_PAYMENT_IDS
from shared.db import Connection


@dataclass(frozen=True, slots=True)
class Callback:
    """What a provider sent, as received."""

    provider: ProviderName
    event_id: str
    type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event of the inbox, locked: `outcome` is None unless it had been completed before."""

    first_received_at_us: int
    outcome: Outcome | None
    is_new: bool


async def lock_events(
    connection: Connection, callbacks: Sequence[Callback], payment_ids: Sequence[str], now_us: int
) -> list[Arrival]:
    """Keep different events, or find those that are there; concurrent copies wait for one another here.

    A new one is written as completed and applied, which `finish_events` changes where it turns out otherwise: both are
    seen together or not at all. Then takes the locks of `lock_payment_ids`, to spare the busiest path a round trip.
    """
    rows = await connection.fetch(
        f"""
        with event as (
          insert into inbox (provider, event_id, type, body, first_received_at, completed_at, outcome)
          select provider, event_id, type, body, $5, $5, 'applied'
          from unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) c(provider, event_id, type, body)
          order by provider, event_id
          on conflict (provider, event_id) do update set outcome = inbox.outcome
          returning provider, event_id, first_received_at, outcome, xmax = 0 as is_new
        ), locks as materialized (
          {LOCK_PAYMENT_IDS.replace("$1", "$6")} where (select count(*) from event) > 0
        )
        select provider, event_id, first_received_at, case when not is_new then outcome end, is_new,
          (select count(*) from locks)
        from event
        """,  # noqa: S608 - constants
        [callback.provider for callback in callbacks],
        [callback.event_id for callback in callbacks],
        [callback.type for callback in callbacks],
        [callback.body for callback in callbacks],
        now_us,
        payment_ids,
    )
    found = {(row[0], row[1]): Arrival(row[2], row[3], row[4]) for row in rows}
    return [found[callback.provider, callback.event_id] for callback in callbacks]


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of an event; `outcome` None leaves it open, to be sent again."""

    provider: ProviderName
    event_id: str
    outcome: Outcome | None


async def finish_events(connection: Connection, endings: Sequence[Ending], now_us: int) -> None:
    """Say what became of events that are locked."""
    if not endings:
        return
    await connection.execute(
        """
        update inbox i set completed_at = case when e.outcome is not null then $4::timestamptz end, outcome = e.outcome
        from unnest($1::text[], $2::text[], $3::text[]) e(provider, event_id, outcome)
        where i.provider = e.provider and i.event_id = e.event_id
        """,
        [ending.provider for ending in endings],
        [ending.event_id for ending in endings],
        [ending.outcome for ending in endings],
        now_us,
    )
