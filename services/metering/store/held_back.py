"""SQL of what metering keeps back of an account: what was said of it, and is not in its charges."""

from dataclasses import dataclass
from typing import Final, Literal

from services.metering.store.contradictions import OF_HISTORY
from shared.db import Connection
from shared.topics import LIFECYCLE, USAGE

# A larger dead letter is nobody's event.
READ_BYTES_MAX: Final = 16 * 1024

HeldBackKind = Literal["parked", "contradiction", "dead"]


@dataclass(frozen=True, slots=True)
class HeldBack:
    """`item_id` names it for an operator, `reason` says why it is kept back."""

    kind: HeldBackKind
    item_id: str
    resource_id: str | None
    reason: str


async def load_held_back(connection: Connection, region: str, tenant_id: str, limit: int) -> list[HeldBack]:
    """What could change what an account is charged, or whose a resource is, once an operator has looked at it.

    Events that wait for an operator; refused claims and facts, of the tenant or about its resources; dead letters that
    have its name in them. What waits for its time alone is no doubt.
    """
    rows = await connection.fetch(
        """
        select 'parked' as kind, source || '/' || event_id as item_id, resource_id, reason
        from waiting_event where state = 'parked' and due_at is null and (region, tenant_id) = ($1, $2)
        union all
        select 'contradiction', c.source || '/' || c.event_id, c.resource_id, c.kind
        from contradiction c
        where c.region = $1 and not c.kind = any($3::text[])
          and (c.tenant_id = $2 or exists (select from resource r
            where (r.region, r.resource_id, r.tenant_id) = (c.region, c.resource_id, $2)))
        union all
        select 'dead', dead_id, null, reason from dead_letter
        where replayed_at is null and topic = any($4::text[]) and octet_length(value) <= $5
          and position(convert_to('"' || $2 || '"', 'UTF8') in value) > 0
        order by kind, item_id limit $6
        """,
        region,
        tenant_id,
        list(OF_HISTORY),
        [LIFECYCLE, USAGE],
        READ_BYTES_MAX,
        limit,
    )
    return [HeldBack(*row) for row in rows]
