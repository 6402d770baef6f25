"""SQL of what metering keeps back of an account: what was said of it, and is not in its charges."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

import orjson

from services.metering.rules.named import find_names
from services.metering.store.contradictions import OF_HISTORY
from shared.db import Connection
from shared.topics import LIFECYCLE, USAGE

# More dead letters than can be looked through, or a larger one, are a doubt about everybody.
LETTERS_MAX: Final = 2_000
BYTES_MAX: Final = 4 * 1024 * 1024

HeldBackKind = Literal["parked", "pending", "contradiction", "dead"]


@dataclass(frozen=True, slots=True)
class HeldBack:
    """`item_id` names it for an operator, `reason` says why it is kept back."""

    kind: HeldBackKind
    item_id: str
    resource_id: str | None
    reason: str


async def load_held_back(connection: Connection, region: str, tenant_id: str, limit: int) -> list[HeldBack]:
    """What could change what an account is charged, or whose a resource is, once an operator has looked at it.

    Events that wait for an operator, or for one that they replace and that never came; refused claims and facts, of the
    tenant or about its resources; dead letters that name it, or one of its resources. What waits for its time alone is
    no doubt.
    """
    rows = await connection.fetch(
        """
        select state as kind, source || '/' || event_id as item_id, resource_id, reason
        from waiting_event where (region, tenant_id) = ($1, $2)
          and (state = 'parked' and due_at is null or state = 'pending' and replaces_id is not null)
        union all
        select 'contradiction', c.source || '/' || c.event_id, c.resource_id, c.kind
        from contradiction c
        where c.region = $1 and not c.kind = any($3::text[])
          and (c.tenant_id = $2 or exists (select from resource r
            where (r.region, r.resource_id, r.tenant_id) = (c.region, c.resource_id, $2)))
        order by kind, item_id limit $4
        """,
        region,
        tenant_id,
        list(OF_HISTORY),
        limit,
    )
    found = [HeldBack(*row) for row in rows]
    return [*found, *await _load_dead(connection, region, tenant_id)][:limit]


async def _load_dead(connection: Connection, region: str, tenant_id: str) -> list[HeldBack]:
    topics = [LIFECYCLE, USAGE]
    count, size = await _measure(connection, topics)
    if count > LETTERS_MAX or size > BYTES_MAX:
        reason = f"{count} dead letters of {size} bytes, too many to tell whom they concern: replay or close them"
        return [HeldBack("dead", "many", None, reason)]
    rows = await connection.fetch(
        """
        select dead_id, reason, key, value, headers from dead_letter
        where replayed_at is null and topic = any($1::text[]) order by dead_id
        """,
        topics,
    )
    names = {row["dead_id"]: find_names((row["key"], row["value"], *_header_values(row["headers"]))) for row in rows}
    owned = {
        row[0]
        for row in await connection.fetch(
            "select resource_id from resource where (region, tenant_id) = ($1, $2) and resource_id = any($3::text[])",
            region,
            tenant_id,
            [name for name in frozenset().union(*names.values()) if "\0" not in name],
        )
    }
    return [
        HeldBack("dead", row["dead_id"], next(iter(sorted(names[row["dead_id"]] & owned)), None), row["reason"])
        for row in rows
        if tenant_id in names[row["dead_id"]] or names[row["dead_id"]] & owned
    ]


def _header_values(headers: str) -> list[bytes]:
    """What headers say: a CloudEvent in binary mode has its names there, percent-encoded."""
    return [unquote_to_bytes(bytes.fromhex(value)) for _, value in orjson.loads(headers) if value is not None]


async def _measure(connection: Connection, topics: Sequence[str]) -> tuple[int, int]:
    row = await connection.fetchrow(
        """
        select count(*), coalesce(sum(octet_length(value)), 0)::bigint from dead_letter
        where replayed_at is null and topic = any($1::text[])
        """,
        topics,
    )
    assert row is not None
    return row[0], row[1]
