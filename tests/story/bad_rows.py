"""Rows that a service can't work with, as a fault of its disk, its code or a hand would leave them; and their mending.

Each is of an account of its own: nobody else may notice. Statements speak of `{tenant}`, and of what was `{kept}`.
"""

from dataclasses import dataclass
from typing import Final

from tests.system.cluster import Cluster


@dataclass(frozen=True)
class BadRow:
    """Statements of one service's database; `kind` is of what is set aside, `keep_sql` asks for what mending needs."""

    kind: str
    break_sql: tuple[str, ...]
    mend_sql: tuple[str, ...]
    keep_sql: str = "select ''"


# Every worker reads again what has the shard's next version.
_NEXT_VERSION: Final = (
    "update shard set version = version + 1 where shard in (select shard from resource where tenant_id = '{tenant}')"
)
_SET_HISTORY: Final = (
    "update resource set version = (select version from shard where shard.shard = resource.shard),"
    " history = decode('{history}', 'hex') where tenant_id = '{{tenant}}' and history {which} '\\x00'"
)
_PARK_NONSENSE: Final = """
    insert into parked_event (source, event_id, subject, due_at, envelope)
    select 'platform/vn', '{tenant}-parked', '{tenant}', timestamptz '2026-01-01T00:00:00Z',
      jsonb_build_object('specversion', '1.0', 'id', '{tenant}-parked', 'source', 'platform/vn',
        'type', 'container.started', 'subject', '{tenant}', 'time', '2026-01-01T00:00:00Z',
        'data', jsonb_build_object('region', 'moon', 'tenant_id', '{tenant}'))
    """
_AGREE_ON_THE_MOON: Final = """
    insert into auto_top_up (region, tenant_id, agreement_number, threshold_micros, target_micros, daily_cap_micros,
      monthly_cap_micros, card_customer, card_method, enabled, changed_at)
    values ('moon', '{tenant}', 1, 1000000, 2000000, 9000000, 9000000, 'cus_1', 'pm_1', true,
      timestamptz '2026-01-01T00:00:00Z')
    """

BAD_ROWS: Final = {
    "metering": BadRow(
        "tick",
        (_NEXT_VERSION, _SET_HISTORY.format(history="00", which="<>")),
        (_NEXT_VERSION, _SET_HISTORY.format(history="{kept}", which="=")),
        "select encode(history, 'hex') from resource where tenant_id = '{tenant}'",
    ),
    "enforcement": BadRow(
        "parked",
        (_PARK_NONSENSE,),
        (
            "update parked_event set applied_at = due_at where subject = '{tenant}' and applied_at is null",
            "delete from set_aside where kind = 'parked' and item like '%{tenant}'",
        ),
    ),
    "payment": BadRow(
        "auto-top-up",
        (_AGREE_ON_THE_MOON,),
        (
            "delete from auto_top_up where tenant_id = '{tenant}'",
            "delete from set_aside where kind = 'auto-top-up' and item = 'moon/{tenant}'",
        ),
    ),
}


def break_row(cluster: Cluster, service: str, tenant: str) -> str:
    """Break the row of `tenant`; answer what `mend_row` needs."""
    bad = BAD_ROWS[service]
    [(kept,)] = cluster.query(service, bad.keep_sql.format(tenant=tenant))
    for statement in bad.break_sql:
        cluster.query(service, statement.format(tenant=tenant))
    return str(kept)


def mend_row(cluster: Cluster, service: str, tenant: str, kept: str) -> None:
    for statement in BAD_ROWS[service].mend_sql:
        cluster.query(service, statement.format(tenant=tenant, kept=kept))
