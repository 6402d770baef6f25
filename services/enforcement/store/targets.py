"""SQL of deletion targets: the resources of a case, and how far the deletion of each is."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from services.enforcement.rules.account import AccountKey
from services.enforcement.rules.resource import Family, Resource
from shared.db import Connection


@dataclass(frozen=True, slots=True)
class Target:
    """One resource to delete. `commands` were sent so far; the next is due at `next_command_at_us`, None: at once."""

    account: AccountKey
    case_id: str
    resource_id: str
    family: Family
    commands: int
    next_command_at_us: int | None
    done_at_us: int | None

    def is_due(self, now_us: int) -> bool:
        """Not gone, and not within the pause after its last command."""
        due = self.next_command_at_us is None or self.next_command_at_us <= now_us
        return self.done_at_us is None and due


async def insert_targets(connection: Connection, case_id: str, resources: Sequence[Resource]) -> None:
    """Add resources to a case; those that it has stay as they are."""
    await connection.execute(
        """
        insert into deletion_target (case_id, region, resource_id, family)
        select $1, * from unnest($2::text[], $3::text[], $4::text[]) on conflict do nothing
        """,
        case_id,
        [resource.key.region for resource in resources],
        [resource.key.resource_id for resource in resources],
        [resource.key.family for resource in resources],
    )


async def load_targets(connection: Connection, case_id: str) -> list[Target]:
    """The targets of a case, containers first: a volume may be in use by one."""
    rows = await connection.fetch(
        f"select {_COLUMNS} where t.case_id = $1 order by t.family, t.resource_id",
        case_id,
    )
    return [_target(row) for row in rows]


async def lock_target(connection: Connection, case_id: str, resource_id: str) -> Target | None:
    """A target as it is now; the caller holds its account."""
    row = await connection.fetchrow(
        f"select {_COLUMNS} where t.case_id = $1 and t.resource_id = $2 for update of t",
        case_id,
        resource_id,
    )
    return None if row is None else _target(row)


async def hold_back(connection: Connection, target: Target, until_us: int) -> None:
    """Give no command for a target before an instant."""
    await connection.execute(
        "update deletion_target set next_command_at = $3 where case_id = $1 and resource_id = $2",
        target.case_id,
        target.resource_id,
        until_us,
    )


async def mark_commanded(
    connection: Connection,
    target: Target,
    permit_id: str,
    *,
    redeemed_at_us: int,
    now_us: int,
    expires_at_us: int,
    next_command_at_us: int,
) -> None:
    """Note one command more, and when the next may come."""
    await connection.execute(
        """
        update deletion_target set permit_id = $3, redeemed_at = $4, commanded_at = $5, command_expires_at = $6,
          next_command_at = $7, commands = commands + 1, abandoned_at = null
        where case_id = $1 and resource_id = $2
        """,
        target.case_id,
        target.resource_id,
        permit_id,
        redeemed_at_us,
        now_us,
        expires_at_us,
        next_command_at_us,
    )


async def mark_done(connection: Connection, ids: Sequence[tuple[str, str]], now_us: int) -> list[str]:
    """The resources named by (region, resource_id) are gone; answer the ids of the cases that wanted them so."""
    if not ids:
        return []
    rows = await connection.fetch(
        """
        update deletion_target t set done_at = $3
        from unnest($1::text[], $2::text[]) k(region, resource_id)
        where (t.region, t.resource_id) = (k.region, k.resource_id) and t.done_at is null returning t.case_id
        """,
        [region for region, _ in ids],
        [resource_id for _, resource_id in ids],
        now_us,
    )
    return sorted({row["case_id"] for row in rows})


async def mark_undone(connection: Connection, ids: Sequence[tuple[str, str]]) -> None:
    """The resources named by (region, resource_id) exist: no case that is not cancelled is done with them."""
    if not ids:
        return
    await connection.execute(
        """
        update deletion_target t set done_at = null
        from unnest($1::text[], $2::text[]) k(region, resource_id), deletion_case c
        where (t.region, t.resource_id) = (k.region, k.resource_id) and t.done_at is not null
          and c.case_id = t.case_id and c.state <> 'cancelled'
        """,
        [region for region, _ in ids],
        [resource_id for _, resource_id in ids],
    )


async def load_targets_to_abandon(connection: Connection, before_us: int, now_us: int, limit: int) -> list[Target]:
    """Targets of cancelled cases whose last command expired unconfirmed by `before_us`: nobody will delete them now.

    One that a later case has commanded again is that case's; without a lock.
    """
    rows = await connection.fetch(
        f"""
        select {_COLUMNS}
        where c.state = 'cancelled' and t.command_expires_at <= $1 and t.done_at is null and t.abandoned_at is null
          and not exists (select from set_aside s
            where (s.kind, s.item) = ('abandonment', t.case_id || ' ' || t.resource_id) and still_held(s, $2))
          and not exists (select from deletion_target later where later.done_at is null
            and (later.region, later.resource_id) = (t.region, t.resource_id) and later.commanded_at > t.commanded_at)
        order by t.case_id, t.resource_id limit $3
        """,  # noqa: S608 - the columns are constant
        before_us,
        now_us,
        limit,
    )
    return [_target(row) for row in rows]


async def mark_abandoned(connection: Connection, target: Target, now_us: int) -> bool:
    """Whether it was not abandoned or done before."""
    status = await connection.execute(
        """
        update deletion_target set abandoned_at = $3
        where case_id = $1 and resource_id = $2 and done_at is null and abandoned_at is null
        """,
        target.case_id,
        target.resource_id,
        now_us,
    )
    return status == "UPDATE 1"


_COLUMNS = """c.region, c.tenant_id, t.case_id, t.resource_id, t.family, t.commands, t.next_command_at, t.done_at
  from deletion_target t join deletion_case c using (case_id)"""


def _target(row: asyncpg.Record) -> Target:
    return Target(
        AccountKey(row["region"], row["tenant_id"]),
        row["case_id"],
        row["resource_id"],
        row["family"],
        row["commands"],
        row["next_command_at"],
        row["done_at"],
    )
