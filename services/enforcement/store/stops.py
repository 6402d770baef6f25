"""SQL of stop requests: one row per run that was ever to be stopped."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import asyncpg

from services.enforcement.rules.account import AccountKey
from services.enforcement.rules.lifecycle import RunKey
from shared.db import Connection

StopTurn = Literal["first", "repeat"]

# Kind of stops that are set aside.
STOP: Final = "stop"


def name_stop(key: AccountKey, resource_id: str) -> str:
    """A stop as an item that is set aside: what holds back one tenant's is no reason to hold another's of that id."""
    return f"{key.region}/{key.tenant_id}/{resource_id}"


@dataclass(frozen=True, slots=True)
class StopRequest:
    """A run that must stop; `outcome` null while it is open. `attempts` commands were sent, the next is due then.

    `metering_only`: metering charges the account for the run, and our own books lack it.
    """

    key: AccountKey
    resource_id: str
    run: RunKey
    account_version: int
    requested_at_us: int
    next_attempt_at_us: int
    attempts: int = 0
    ended_at_us: int | None = None
    outcome: str | None = None
    metering_only: bool = False

    @property
    def turn(self) -> StopTurn:
        """What its next command is: the first since the request was opened, or opened again, or a repeat."""
        return "first" if self.next_attempt_at_us == self.requested_at_us else "repeat"

    def is_due(self, now_us: int, pause_us_max: int) -> bool:
        """As `load_due_ids` finds them."""
        return not now_us < self.next_attempt_at_us <= now_us + pause_us_max

    def end(self, outcome: str, now_us: int) -> "StopRequest":
        return replace(self, outcome=outcome, ended_at_us=now_us)

    def reopen(self, account_version: int, now_us: int, *, metering_only: bool) -> "StopRequest":
        return replace(
            self,
            metering_only=metering_only,
            account_version=account_version,
            requested_at_us=now_us,
            next_attempt_at_us=now_us,
            ended_at_us=None,
            outcome=None,
        )


async def load_requests(connection: Connection, ids: Sequence[tuple[str, str]]) -> list[StopRequest]:
    """Every request, open or ended, for the containers named by (region, resource_id)."""
    rows = await connection.fetch(
        """
        select s.* from stop_request s
        join unnest($1::text[], $2::text[]) k(region, resource_id) using (region, resource_id)
        """,
        [region for region, _ in ids],
        [resource_id for _, resource_id in ids],
    )
    return [_request(row) for row in rows]


async def load_metering_only(connection: Connection, keys: Sequence[AccountKey]) -> list[StopRequest]:
    """The open requests of accounts that rest on metering's word alone."""
    rows = await connection.fetch(
        """
        select s.* from stop_request s
        join unnest($1::text[], $2::text[]) k(region, tenant_id) using (region, tenant_id)
        where s.ended_at is null and s.metering_only
        """,
        [key.region for key in keys],
        [key.tenant_id for key in keys],
    )
    return [_request(row) for row in rows]


async def load_due_ids(
    connection: Connection, now_us: int, limit: int, turn: StopTurn, pause_us_max: int
) -> list[tuple[AccountKey, str]]:
    """Whose open requests are due to be sent, without a lock: (account, resource_id), the longest due first.

    Regions take turns, and the tenants of a region: one who has very many leaves room for the others. What is planned
    for later than the longest pause was planned by a clock that was ahead, and is due.
    """
    rows = await connection.fetch(
        """
        select region, tenant_id, resource_id from (
          select region, tenant_id, resource_id, next_attempt_at,
            row_number() over (partition by region, tenant_id order by next_attempt_at) as turn
          from stop_request r
          where ended_at is null and not (next_attempt_at > $1 and next_attempt_at <= $4)
            and (next_attempt_at = requested_at) = $3
            and not exists (select from set_aside s where still_held(s, $1)
              and (s.kind, s.item) = ('stop', r.region || '/' || r.tenant_id || '/' || r.resource_id))
        ) due
        order by row_number() over (partition by region order by turn, next_attempt_at), next_attempt_at limit $2
        """,
        now_us,
        limit,
        turn == "first",
        now_us + pause_us_max,
    )
    return [(AccountKey(row["region"], row["tenant_id"]), row["resource_id"]) for row in rows]


async def forget_ended_stops(connection: Connection) -> None:
    """Forget what was set aside of stops that have ended otherwise: confirmed, or no longer wanted."""
    await connection.execute(
        """
        delete from set_aside s where s.kind = $1 and not exists (select from stop_request r
          where r.ended_at is null and s.item = r.region || '/' || r.tenant_id || '/' || r.resource_id)
        """,
        STOP,
    )


async def save_requests(connection: Connection, requests: Sequence[StopRequest]) -> None:
    if not requests:
        return
    await connection.execute(
        """
        insert into stop_request (region, tenant_id, resource_id, run_source, run_event_id, account_version,
          requested_at, next_attempt_at, attempts, ended_at, outcome, metering_only, confirmed_at)
        select k.*, case when k.outcome = 'confirmed' then k.ended_at end from unnest(
          $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::timestamptz[],
          $8::timestamptz[], $9::int[], $10::timestamptz[], $11::text[], $12::bool[])
          k(region, tenant_id, resource_id, run_source, run_event_id, account_version, requested_at, next_attempt_at,
            attempts, ended_at, outcome, metering_only)
        on conflict (region, resource_id, run_source, run_event_id) do update
        set tenant_id = excluded.tenant_id, account_version = excluded.account_version,
            requested_at = excluded.requested_at,
            next_attempt_at = excluded.next_attempt_at, attempts = excluded.attempts, ended_at = excluded.ended_at,
            outcome = excluded.outcome, metering_only = excluded.metering_only, confirmed_at = excluded.confirmed_at
        """,
        [request.key.region for request in requests],
        [request.key.tenant_id for request in requests],
        [request.resource_id for request in requests],
        [request.run.source for request in requests],
        [request.run.event_id for request in requests],
        [request.account_version for request in requests],
        [request.requested_at_us for request in requests],
        [request.next_attempt_at_us for request in requests],
        [request.attempts for request in requests],
        [request.ended_at_us for request in requests],
        [request.outcome for request in requests],
        [request.metering_only for request in requests],
    )


async def load_open_requests(connection: Connection, limit: int) -> list[StopRequest]:
    rows = await connection.fetch(
        "select * from stop_request where ended_at is null order by requested_at, region, resource_id limit $1", limit
    )
    return [_request(row) for row in rows]


def _request(row: asyncpg.Record) -> StopRequest:
    return StopRequest(
        AccountKey(row["region"], row["tenant_id"]),
        row["resource_id"],
        RunKey(row["run_source"], row["run_event_id"]),
        row["account_version"],
        row["requested_at"],
        row["next_attempt_at"],
        row["attempts"],
        row["ended_at"],
        row["outcome"],
        row["metering_only"],
    )
