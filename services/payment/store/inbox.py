"""The inbox: what providers sent, as received, and whether it was dealt with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

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
    """An event of the inbox, locked: `outcome` is None unless it had been completed before.

    `problem`: it could not be read or applied before.
    """

    first_received_at_us: int
    outcome: Outcome | None
    is_new: bool
    problem: str | None = None


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
          returning provider, event_id, first_received_at, outcome, xmax = 0 as is_new, problem
        ), locks as materialized (
          {LOCK_PAYMENT_IDS.replace("$1", "$6")} where (select count(*) from event) > 0
        )
        select provider, event_id, first_received_at, case when not is_new then outcome end, is_new, problem,
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
    found = {(row[0], row[1]): Arrival(row[2], row[3], row[4], row[5]) for row in rows}
    return [found[callback.provider, callback.event_id] for callback in callbacks]


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of an event; `outcome` None leaves it open, to be sent again or, with a `problem`, tried again."""

    provider: ProviderName
    event_id: str
    outcome: Outcome | None
    problem: str | None = None


async def finish_events(connection: Connection, endings: Sequence[Ending], now_us: int) -> None:
    """Say what became of events that are locked."""
    if not endings:
        return
    await connection.execute(
        """
        update inbox i set completed_at = case when e.outcome is not null then $4::timestamptz end, outcome = e.outcome,
          problem = coalesce(e.problem, i.problem)
        from unnest($1::text[], $2::text[], $3::text[], $5::text[]) e(provider, event_id, outcome, problem)
        where i.provider = e.provider and i.event_id = e.event_id
        """,
        [ending.provider for ending in endings],
        [ending.event_id for ending in endings],
        [ending.outcome for ending in endings],
        now_us,
        [ending.problem for ending in endings],
    )


# What the loop that tries events again calls one that it has to leave out (shared.set_aside).
SET_ASIDE_KIND: Final = "inbox"
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Kept:
    """An event that could not be read or applied, and is open."""

    provider: ProviderName
    event_id: str
    type: str
    body: bytes
    first_received_at_us: int
    problem: str

    @property
    def key(self) -> Key:
        return self.provider, self.event_id

    @property
    def item(self) -> str:
        return f"{self.provider}/{self.event_id}"


async def keep_problem(connection: Connection, callback: Callback, problem: str, now_us: int) -> None:
    """Keep an event that could not be applied, open and with its reason; one that was completed meanwhile stays so."""
    await connection.execute(
        """
        insert into inbox (provider, event_id, type, body, first_received_at, problem) values ($1, $2, $3, $4, $5, $6)
        on conflict (provider, event_id) do update set problem = excluded.problem where inbox.completed_at is null
        """,
        callback.provider,
        callback.event_id,
        callback.type,
        callback.body,
        now_us,
        problem,
    )


async def load_problems(connection: Connection, after: Key, limit: int) -> list[Kept]:
    """A page of events that could not be read or applied, by provider and id."""
    rows = await connection.fetch(
        """
        select provider, event_id, type, body, first_received_at, problem from inbox
        where completed_at is null and problem is not null and (provider, event_id) > ($1, $2)
        order by provider, event_id limit $3
        """,
        *after,
        limit,
    )
    return [Kept(*row) for row in rows]


async def load_problem(connection: Connection, key: Key) -> Kept | None:
    row = await connection.fetchrow(
        """
        select provider, event_id, type, body, first_received_at, problem from inbox
        where (provider, event_id) = ($1, $2) and completed_at is null and problem is not null
        """,
        *key,
    )
    return None if row is None else Kept(*row)


async def dismiss_problem(connection: Connection, key: Key, actor: str, reason: str, now_us: int) -> bool:
    """Complete an event that could not be applied by an operator's decision; False where none is open."""
    status = await connection.execute(
        """
        update inbox set completed_at = $3, outcome = 'dismissed', dismissed_by = $4, dismissed_reason = $5
        where (provider, event_id) = ($1, $2) and completed_at is null and problem is not null
        """,
        *key,
        now_us,
        actor,
        reason,
    )
    return status.endswith(" 1")


async def count_problems(connection: Connection) -> int:
    return int(
        await connection.fetchval("select count(*) from inbox where completed_at is null and problem is not null")
    )
