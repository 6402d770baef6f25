"""SQL of deletion cases: at most one open per account."""

from collections.abc import Sequence

import asyncpg
import orjson

from services.enforcement.rules.account import AccountKey
from services.enforcement.rules.deletion import Case, CaseState
from shared.clock import format_instant
from shared.db import Connection


async def load_cases(connection: Connection, keys: Sequence[AccountKey], case_ids: Sequence[str] = ()) -> list[Case]:
    """The open cases of accounts, and the cases of these ids whatever their state."""
    rows = await connection.fetch(
        """
        select c.* from deletion_case c
        join unnest($1::text[], $2::text[]) k(region, tenant_id) using (region, tenant_id)
        where c.state not in ('cancelled', 'done')
        union select c.* from deletion_case c where c.case_id = any($3::text[])
        """.replace("c.*", _COLUMNS),
        [key.region for key in keys],
        [key.tenant_id for key in keys],
        list(case_ids),
    )
    return [_case(row) for row in rows]


async def load_case(connection: Connection, case_id: str) -> Case | None:
    row = await connection.fetchrow(f"select {_COLUMNS} from deletion_case c where case_id = $1", case_id)  # noqa: S608
    return None if row is None else _case(row)


async def claim_due_case(
    connection: Connection, now_us: int, lease_seconds: float, *, with_plans: bool
) -> tuple[Case, int] | None:
    """Claim the due case that waits longest for a look, of those that nobody looks at: with its looks in vain so far.

    Those that are frozen for good take their turns like all others, however many they are and since when.

    A claim ends by itself: other processes look at the case again if this one is frozen or dies. Left out are cases
    looked at within their pause, cases set aside, and unless `with_plans` mere plans: whoever only plans has seen them,
    whoever carries out has not.
    """
    row = await connection.fetchrow(
        f"""
        update deletion_case c set next_look_at = clock_timestamp() + make_interval(secs => $2)
        where c.case_id = (
          select case_id from deletion_case d
          where due_at <= $1 and state not in ('cancelled', 'done') and next_look_at <= clock_timestamp()
            and ($3 or state <> 'plan')
            and not exists (select from set_aside s
              where (s.kind, s.item) = ('deletion', d.case_id) and still_held(s, $1))
          order by next_look_at, due_at, case_id limit 1 for update skip locked)
        returning {_COLUMNS}, c.looks
        """,  # noqa: S608 - the columns are constant
        now_us,
        lease_seconds,
        with_plans,
    )
    return None if row is None else (_case(row), row["looks"])


async def forget_ended_cases(connection: Connection) -> None:
    """Forget what was set aside of cases that have ended otherwise."""
    await connection.execute(
        """
        delete from set_aside s where s.kind = any($1::text[]) and exists (select from deletion_case c
          where c.case_id = s.item and c.state in ('cancelled', 'done'))
        """,
        ["deletion", "reminder"],
    )


async def pause_case(connection: Connection, case_id: str, looks: int, pause_seconds: float) -> None:
    """End a claim: the case is looked at again after a pause; `looks` is how often it was in vain."""
    await connection.execute(
        "update deletion_case set next_look_at = clock_timestamp() + make_interval(secs => $2), looks = $3 "
        "where case_id = $1",
        case_id,
        pause_seconds,
        looks,
    )


async def load_cases_to_remind(connection: Connection, now_us: int, limit: int) -> list[Case]:
    """Open cases whose next reminder is due and that are not due themselves; without a lock."""
    rows = await connection.fetch(
        f"""
        select {_COLUMNS} from deletion_case c
        where remind_at <= $1 and due_at > $1 and state not in ('cancelled', 'done')
          and not exists (select from set_aside s
            where (s.kind, s.item) = ('reminder', c.case_id) and still_held(s, $1))
        order by remind_at, case_id limit $2
        """,  # noqa: S608 - the columns are constant
        now_us,
        limit,
    )
    return [_case(row) for row in rows]


async def save_cases(connection: Connection, cases: Sequence[Case], now_us: int) -> None:
    """Write cases in the order given: an account's old case must be closed before its new one opens."""
    await connection.executemany(
        """
        insert into deletion_case (case_id, region, tenant_id, negative_since, opened_at, began_at, due_at, remind_at,
          reminded_at, state, reason, permit_id, permit_expires_at, changed_at, changes, deletable_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $5, $14, $15)
        on conflict (case_id) do update
        set began_at = excluded.began_at, due_at = excluded.due_at, remind_at = excluded.remind_at,
            reminded_at = excluded.reminded_at, state = excluded.state, reason = excluded.reason,
            permit_id = excluded.permit_id, permit_expires_at = excluded.permit_expires_at,
            changed_at = excluded.changed_at, changes = excluded.changes, deletable_at = excluded.deletable_at
        """,
        [
            (
                *(case.case_id, *case.key, case.negative_since_us, now_us, case.began_at_us, case.due_at_us),
                case.remind_at_us,
                *(
                    case.reminded_at_us,
                    case.state,
                    case.reason,
                    case.permit_id,
                    case.permit_expires_at_us,
                    case.changes,
                    case.deletable_at_us,
                ),
            )
            for case in cases
        ],
    )


async def save_evidence(connection: Connection, case_id: str, evidence: dict[str, object]) -> None:
    await connection.execute(
        "update deletion_case set evidence = $2 where case_id = $1",
        case_id,
        orjson.dumps(evidence, default=list).decode(),
    )


async def describe_cases(
    connection: Connection, key: AccountKey | None, *, after: str, limit: int, state: CaseState | None = None
) -> list[dict[str, object]]:
    """Cases as the API answers them, of one state or of all, with targets and evidence, in the order of their ids."""
    rows = await connection.fetch(
        f"""
        select {_COLUMNS}, c.opened_at, c.changed_at, c.evidence::text, coalesce(t.targets, '[]')::text as targets
        from deletion_case c left join lateral (
          select jsonb_agg(jsonb_build_object('resource_id', resource_id, 'family', family, 'commands', commands,
            'redeemed', redeemed_at is not null, 'done', done_at is not null, 'abandoned', abandoned_at is not null)
            order by family, resource_id) as targets
          from deletion_target t where t.case_id = c.case_id
        ) t on true
        where ($1::text is null or (c.region, c.tenant_id) = ($1, $2)) and c.case_id > $3
          and ($5::text is null or c.state = $5) order by c.case_id limit $4
        """,  # noqa: S608 - the columns are constant
        None if key is None else key.region,
        None if key is None else key.tenant_id,
        after,
        limit,
        state,
    )
    return [
        {
            **{name: row[name] for name in ("case_id", "region", "tenant_id", "state", "reason", "permit_id")},
            **{name: _instant(row[name]) for name in _INSTANTS},
            "evidence": orjson.loads(row["evidence"]),
            "targets": orjson.loads(row["targets"]),
        }
        for row in rows
    ]


_INSTANTS = (
    "negative_since",
    "opened_at",
    "began_at",
    "due_at",
    "remind_at",
    "reminded_at",
    "changed_at",
    "permit_expires_at",
    "deletable_at",
)
_COLUMNS = """c.case_id, c.region, c.tenant_id, c.negative_since, c.began_at, c.due_at, c.remind_at, c.reminded_at,
  c.state, c.reason, c.permit_id, c.permit_expires_at, c.changes, c.deletable_at"""


def _instant(instant_us: int | None) -> str | None:
    return None if instant_us is None else format_instant(instant_us)


def _case(row: asyncpg.Record) -> Case:
    return Case(
        AccountKey(row["region"], row["tenant_id"]),
        row["negative_since"],
        row["began_at"],
        row["due_at"],
        row["remind_at"],
        row["state"],
        row["reason"],
        row["permit_id"],
        row["permit_expires_at"],
        row["reminded_at"],
        row["changes"],
        row["deletable_at"],
    )
